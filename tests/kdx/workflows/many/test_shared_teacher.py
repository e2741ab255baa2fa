"""A compact teacher that products of a catalogue share: made once, kept, and loaded once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

import kdx
from kd_train.training.run_folder import Run
from kdx.errors import OptionError
from kdx.verification.tolerances import FP32
from kdx.workflows.many import engines, product, shared_teacher
from kdx.workflows.many.orders import orders_of
from kdx.workflows.many.product import keep
from kdx.workflows.many.product_records import ProductOrder, TeacherResult, read_kept
from kdx.workflows.many.shared_teacher import (
    failed_teacher,
    later_product,
    made_teacher,
    make_teacher,
    teacher_orders,
    with_shared_teacher,
)
from tests.kdx.archive.in_thread import ThreadChild

DEFAULTS = """
[defaults]
backbone = "compact-s"
teacher_from = "test_resnet"
taps = "layer2,layer3"
weights = "random"
image_size = 64
batch_size = 4
epochs = 1
teacher_epochs = 1
validation_fraction = 0.5
workers = 0
device = "cpu"
false_reject_rate = 0.2
shared_teacher = "line4"
"""


def orders(folder: Path, products: dict[str, tuple[Path, str]], defaults: str = DEFAULTS) -> list[ProductOrder]:
    path = folder / "catalog.toml"
    tables = [f"[products.{name}]\ndata = '{data}'\n{keys}\n" for name, (data, keys) in products.items()]
    path.write_text(defaults + "".join(tables), encoding="utf-8")
    return orders_of(path, folder / "out", "local", 1, 1)


@pytest.fixture(scope="module")
def made(dataset, cells, tmp_path_factory) -> Path:
    """Two products, their teacher and their bundles."""
    folder = tmp_path_factory.mktemp("many")
    two = orders(folder, {"tile": (dataset, ""), "cell": (cells, "")})
    (teacher,) = teacher_orders(two)
    assert make_teacher(teacher).error is None
    for order in two:
        assert product.make(with_shared_teacher(order)).error is None
    return folder


def again(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "many"))


@pytest.mark.slow
def test_products_learn_from_one_teacher_that_learnt_from_all(made):
    teacher, tile, cell = (Run(made / "out" / path).config for path in ("teachers/line4", "runs/tile", "runs/cell"))
    assert teacher.teacher_sha256 == tile.teacher_sha256 == cell.teacher_sha256
    assert {f"tile/{name}" for name in tile.train_images} | {f"cell/{name}" for name in cell.train_images} == set(
        teacher.train_images
    )
    held_out = {*tile.validation_images.values(), *cell.validation_images.values()}
    assert held_out == set(teacher.validation_images.values())
    assert not held_out & set(teacher.train_images.values())
    assert not (made / "out/runs/tile/teacher").exists()  # no teacher of its own
    result = json.loads((made / "out/teachers/line4.json").read_text(encoding="utf-8"))
    assert (result["state"], result["products"], result["held_out_images"]) == ("trained", {"tile": 6, "cell": 8}, 14)
    assert result["weights"] == "distilled from test_resnet, random"


@pytest.mark.slow
def test_the_bundles_share_the_teacher_at_run_time(made, dataset):
    """It is loaded once, and each verdict is that of the bundle alone."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
    paths = {name: made / f"out/{name}.kdx" for name in ("tile", "cell")}
    with Image.open(dataset / "test/scratch/016.png") as image:
        frame = np.asarray(image)
    with kdx.load_many(paths, "openvino", 1) as group:
        assert group.teachers == (("tile", "cell"),)
        together = group(frame)
    for name, path in paths.items():
        with kdx.load(path, "openvino", 1) as detector:
            alone = detector(frame)
        assert together[name].decision is alone.decision
        assert together[name].score == pytest.approx(alone.score, rel=FP32.score)
        np.testing.assert_allclose(
            together[name].anomaly_map, alone.anomaly_map, atol=FP32.map * np.ptp(alone.anomaly_map)
        )
    assert together["tile"].score != together["cell"].score  # two students


@pytest.mark.slow
def test_a_product_that_comes_later_uses_the_teacher_that_exists(made, dataset, cells, tmp_path, monkeypatch):
    folder = again(made, tmp_path)
    monkeypatch.setattr(shared_teacher, "_distil", None)  # it is not made again
    three = orders(folder, {"tile": (dataset, ""), "cell": (cells, ""), "nut": (cells, "seed = 0\nepochs = 2")})
    (teacher,) = teacher_orders(three)
    result = make_teacher(teacher)
    assert (result.state, result.products) == ("unchanged", {"tile": 6, "cell": 8})
    states = [product.make(with_shared_teacher(order)) for order in three]
    assert [each.state for each in states] == ["unchanged", "unchanged", "trained"]
    assert Run(folder / "out/runs/nut").config.teacher_sha256 == result.teacher_sha256
    later = [
        [one for one in later_product(each, result).remarks if one.kind == "unknown_to_teacher"] for each in states
    ]
    assert later[:2] == [[], []]
    (said,) = later[2]
    assert said.first == ("nut",)
    assert str(said).startswith("1 product came after the shared teacher 'line4', which is kept")
    assert str(said).endswith("trains tile, cell again too): nut")


def test_a_teacher_that_exists_serves_one_product_and_no_other_settings(made, dataset, tmp_path):
    folder = again(made, tmp_path)
    (order,) = orders(folder, {"tile": (dataset, "")})
    assert made_teacher(teacher_orders([order])[0]) is not None
    with pytest.raises(OptionError) as error:
        orders(folder, {"tile": (dataset, "teacher_epochs = 2\nimage_size = 96")})
    assert "the teacher 'line4'" in error.value.message
    assert error.value.expected == "teacher_epochs 1, image_size 64"
    assert error.value.received == "teacher_epochs 2, image_size 96"
    assert "another shared_teacher, which trains the products that name it again: tile" in error.value.fix
    shutil.rmtree(folder / "out/teachers/line4")  # whoever deletes it asks for another
    assert made_teacher(teacher_orders(orders(folder, {"a": (dataset, ""), "b": (dataset, "")}))[0]) is None


def test_products_without_it_are_not_affected(dataset, tmp_path):
    """The key is hashed where it is given; with a teacher, the teacher's content is."""
    both = orders(tmp_path, {"a": (dataset, ""), "b": (dataset, ""), "c": (dataset, 'shared_teacher = ""')})
    plain = orders(tmp_path, {"c": (dataset, "")}, DEFAULTS.replace('shared_teacher = "line4"', ""))
    assert both[2].product.decisive == plain[0].product.decisive
    assert "shared_teacher" not in plain[0].product.decisive
    folder = product._open(both[0])
    (tmp_path / "out/teachers/line4").mkdir(parents=True)
    prints = []
    for content in (b"one", b"other", b"one"):
        (tmp_path / "out/teachers/line4/teacher.safetensors").write_bytes(content)
        prints.append(product.product_fingerprint(with_shared_teacher(both[0]), folder))
    assert prints[0] == prints[2] != prints[1]


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("", "image_size = 96", "expected: image_size 64\n  received: image_size 96"),
        ("", "taps = 'layer2'", "expected: taps layer2,layer3\n  received: taps layer2"),
        ("", "backbone = 'compact-m'", "received: backbone compact-m"),
        ("", "teacher_epochs = 3", "received: teacher_epochs 3"),
        ("", "weights = 'w.pth'", "received: weights .*w.pth"),
        ("weights = 'one/w.pth'", "weights = 'w.pth'", "expected: weights .*one.w.pth\n  received: weights .*w.pth"),
        ("", "seed = 1", "received: seed 1"),
        ("", "extra_images = ['x']", r"received: extra_images \['.*x'\]"),
        ("extra_images = ['one/x']", "extra_images = ['x']", r"expected: extra_images \['.*one.x'\]"),
        ("", "input_size = [80, 80]", r"received: input_size \(80, 80\)"),
        ("", "backbone = 'test_resnet'\nteacher_from = ''", "names nothing"),
        ("", "init = 'earlier'", r"\[products.b\] has init and shared_teacher"),
        ("tile = 64", "tile = 64", r"\[products.a\] cuts frames into tiles"),
        ("", 'shared_teacher = ""', r"\[products.a\]: no other product shares the teacher 'line4'"),
        ("shared_teacher = '../x'", "", r"\[products.a\]: shared_teacher is not usable as a file's name"),
    ],
)
def test_products_that_cannot_share_a_teacher(dataset, tmp_path, first, second, said):
    with pytest.raises(OptionError, match=said):
        orders(tmp_path, {"a": (dataset, first), "b": (dataset, second)})
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_a_method_brings_is_not_shared(dataset, tmp_path):
    defaults = '[defaults]\nbackbone = "test_resnet"\nweights = "random"\nshared_teacher = "x"\n'
    with pytest.raises(OptionError, match="shared_teacher is a key of compact teachers") as error:
        orders(tmp_path, {"a": (dataset, ""), "b": (dataset, "")}, defaults)
    assert error.value.received == "test_resnet"
    assert 'shared_teacher = ""' in error.value.fix


@pytest.mark.slow
def test_a_product_with_a_teacher_of_its_own_does_not_share(made, dataset, tmp_path):
    keys = f"teacher_from = '{made / 'out/teachers/line4'}'\nweights = 'imagenet'"
    with pytest.raises(OptionError, match=r"\[products.b\] has the teacher of .*line4' already"):
        orders(tmp_path, {"a": (dataset, ""), "b": (dataset, keys)})


def test_an_interrupted_teacher_is_resumed_and_other_images_begin_it_again(dataset, cells, tmp_path, monkeypatch):
    asked: list[bool] = []

    def stop(order: Any, *, resume: bool) -> None:
        asked.append(resume)
        raise RuntimeError("the power is gone")

    monkeypatch.setattr(shared_teacher, "_distil", stop)
    for second in (cells, cells, dataset):
        (teacher,) = teacher_orders(orders(tmp_path, {"a": (dataset, ""), "b": (second, "")}))
        result = make_teacher(teacher)
        assert (result.state, result.error["type"]) == ("failed", "Bug")
    assert asked == [False, True, False]


def test_images_that_a_teacher_cannot_learn_from_are_named(dataset, cells, tmp_path, monkeypatch):
    config = SimpleNamespace(weights="random", train_images={}, validation_images={}, teacher_sha256="")
    bad = {Path("a.png"): "'a.png' is empty (0 bytes)"}
    trained = SimpleNamespace(run=SimpleNamespace(config=config), remarks=[], bad_images=bad)
    monkeypatch.setattr(shared_teacher, "_distil", lambda *_, **__: trained)
    (teacher,) = teacher_orders(orders(tmp_path, {"a": (dataset, ""), "b": (cells, "")}))
    (said,) = make_teacher(teacher).remarks
    assert str(said) == "1 image that cannot be read was skipped: 'a.png' is empty (0 bytes)"


@pytest.mark.parametrize("folder_is_missing", [False, True])
def test_a_teacher_whose_process_died_is_continued(dataset, cells, tmp_path, monkeypatch, folder_is_missing):
    """Also if the next call fails before the images are known."""
    asked: list[bool] = []

    class Killed(BaseException):
        """What ends the process: no failure is recorded."""

    def die(order: Any, *, resume: bool) -> None:
        asked.append(resume)
        raise Killed

    monkeypatch.setattr(shared_teacher, "_distil", die)
    images = Path(shutil.copytree(cells, tmp_path / "cells"))
    (teacher,) = teacher_orders(orders(tmp_path, {"a": (dataset, ""), "b": (images, "")}))
    with pytest.raises(Killed):
        make_teacher(teacher)
    assert engines._died(teacher, "killed", "").state == "failed"
    if folder_is_missing:
        images.rename(tmp_path / "elsewhere")
        assert make_teacher(teacher).state == "failed"
        (tmp_path / "elsewhere").rename(images)
    with pytest.raises(Killed):
        make_teacher(teacher)
    assert asked == [False, True]


def test_a_teacher_that_is_finished_stays_so_where_nothing_was_begun(dataset, cells, tmp_path):
    (teacher,) = teacher_orders(orders(tmp_path, {"a": (dataset, ""), "b": (cells, "")}))
    for state in ("begun", "trained"):
        keep(teacher, TeacherResult(name="line4", state=state))
        assert engines._died(teacher, "killed", "").state == "failed"
        assert read_kept(teacher.result, TeacherResult).state == ("trained" if state == "trained" else "failed")


def test_an_old_teacher_is_not_continued_by_the_call_after_one_that_died(
    dataset, cells, run_copy, tmp_path, monkeypatch
):
    asked: list[bool] = []

    def stop(order: Any, *, resume: bool) -> None:
        asked.append(resume)
        raise RuntimeError

    monkeypatch.setattr(shared_teacher, "_distil", stop)
    for second in (cells, dataset, dataset):
        (teacher,) = teacher_orders(orders(tmp_path, {"a": (dataset, ""), "b": (second, "")}))
        make_teacher(teacher)
        if run_copy.exists():
            run_copy.rename(teacher.run)  # of the first images
    assert asked == [False, False, False]


def test_orders_of_teachers_and_products_travel_to_a_cluster_as_json(dataset, tmp_path, monkeypatch):
    two = orders(tmp_path, {"a": (dataset, "extra_images = []"), "b": (dataset, "")})
    received: list[object] = []
    monkeypatch.setattr(engines, "_make", lambda order: received.append(order) or failed_teacher(two_teachers[0], {}))
    two_teachers = teacher_orders(two)
    for order in (*two_teachers, *two):
        answer = engines.make_encoded(msgspec.json.encode(order))
        assert engines._decoded(two_teachers[0], answer).state == "failed"
    assert received == [*two_teachers, *two]


def test_a_teacher_that_fails_fails_its_products_alone(cli, dataset, tmp_path, monkeypatch):
    """The source has no weights."""
    monkeypatch.setattr(engines, "Child", ThreadChild)
    catalog = tmp_path / "catalog.toml"
    text = DEFAULTS.replace('weights = "random"', 'weights = "missing.pth"')
    tables = f"[products.a]\ndata = '{dataset}'\n[products.b]\ndata = '{dataset}'\n[products.c]\ndata = 'missing'\n"
    catalog.write_text(text + tables + 'shared_teacher = ""\n', encoding="utf-8")
    report = cli("train-many", catalog, "-o", tmp_path / "out", "--json", code=1).json
    (teacher,) = report["teachers"]
    assert (teacher["name"], teacher["state"]) == ("line4", "failed")
    messages = [each["error"]["message"] for each in report["products"]]
    assert all("its shared teacher 'line4' was not made: there is no weights file" in each for each in messages[:2])
    assert "missing' does not exist" in messages[2]


def test_what_a_summary_says_of_a_teacher(capsys):
    from kdx.cli.train_many import show_products
    from kdx.workflows.many.product_records import CatalogSummary

    teacher = TeacherResult(name="line4", state="unchanged", weights="distilled from x", products={"a": 6, "b": 8})
    summary = CatalogSummary(
        schema=1, catalog="c", engine="local", trained=0, unchanged=0, failed=0, seconds=0.0, created="", products=[],
        teachers=[teacher, replace(teacher, name="other", state="failed", error={"message": "no weights"})],
    )  # fmt: skip
    show_products(Path("out"), summary)
    said = " ".join(capsys.readouterr().out.split())
    assert "shared teacher line4 unchanged, distilled from x: images 6 of a, 8 of b" in said
    assert "shared teacher other failed: no weights" in said
