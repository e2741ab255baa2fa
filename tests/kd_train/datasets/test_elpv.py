"""ELPV from GitHub: labels.csv and images, at the root or under src/elpv_dataset/data."""

from __future__ import annotations

import pytest

from kd_train.datasets import categories, open_data, recognise
from kd_train.datasets.elpv_package import write_mvtec_layout
from tests.images import cell_paths

PROBABILITIES = ("0.0", "0.3333333333333333", "0.6666666666666666", "1.0")


@pytest.fixture(params=[".", "src/elpv_dataset/data"])
def root(write, tmp_path, request):
    home = tmp_path / request.param
    lines = []
    for number in range(32):
        name = f"images/cell{number + 1:04d}.png"
        write(home / name)
        lines.append(f"{name}  {PROBABILITIES[number % 4]:<20} {'mono' if number < 16 else 'poly'}")
    (home / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def labels(root):
    return next(root.rglob("labels.csv"))


def test_split(root, counts):
    folder = open_data(root, "poly")
    assert (folder.dataset, folder.category, len(folder.good)) == ("elpv", "poly", 2)
    assert counts(folder) == {"good": 2, "defective": 4}
    numbers = [int(path.stem[4:]) for path in (*folder.good, *(image.path for image in folder.test))]
    assert sorted(numbers) == [17, 20, 21, 24, 25, 28, 29, 32]  # the unsure ones are left out


def test_facts(root):
    assert categories(root) == ("mono", "poly")
    info = recognise(root)
    assert info.key == "elpv"
    assert "left out" in info.split


def test_cell_type_is_needed(root, refused):
    with refused("2 categories of ELPV", "mono, poly"):
        open_data(root)


def test_the_package_is_divided_as_the_demo_divides_it(tmp_path):
    package = cell_paths()[0].parents[1]
    write_mvtec_layout(tmp_path)
    folder = open_data(package, "mono")
    assert {path.name for path in folder.good} == {path.name for path in (tmp_path / "train/good").iterdir()}
    assert {image.path.name for image in folder.test if image.is_defective} == {
        path.name for path in (tmp_path / "test/defective").iterdir()
    }


@pytest.mark.parametrize(
    "line",
    ["images/cell0001.png", "images/cell0001.png unsure mono", "images/cell0001.png 1.0 tandem", "images/a 2.0 mono"],
)
def test_damaged_line(root, labels, refused, line):
    labels.write_text(labels.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with refused("labels.csv' is damaged", f"line 33: '{line}'"):
        open_data(root, "mono")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x80", b"\n\n"], ids=["empty", "not text", "blank"])
def test_damaged_file(root, labels, refused, content):
    labels.write_bytes(content)
    with refused("labels.csv' is damaged"):
        open_data(root, "mono")


def test_missing_image(root, labels, refused):
    (labels.parent / "images/cell0005.png").unlink()
    with refused("names an image that is missing", "cell0005.png", "line 5"):
        open_data(root, "mono")


def test_forbidden_labels(root, labels, refused, forbid):
    forbid(labels)
    with refused("labels.csv", "permission denied"):
        open_data(root, "mono")


def test_without_defective_cells(root, labels, refused):
    labels.write_text(
        "".join(line + "\n" for line in labels.read_text(encoding="utf-8").splitlines() if " 1.0 " not in line),
        encoding="utf-8",
    )
    with refused("'mono' of ELPV", "no test split", "2 good and 0 defective"):
        open_data(root, "mono")
