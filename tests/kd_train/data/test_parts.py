"""Which images show one part: by an expression, or by a table as people really write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kd_train.data.image_records import ImageRecord, split_images
from kd_train.data.parts import match_parts, parts_of, read_parts
from kdx.errors import DataError, OptionError
from kdx.folders.data_folder import ImageFolder, TestImage

ROOT = Path("/data/line")


def images(*names: str) -> list[Path]:
    return [ROOT / name for name in names]


def table(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "parts.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def matched(tmp_path: Path, content: str | bytes, *names: str) -> dict[str, str]:
    found = match_parts(read_parts(table(tmp_path, content)), images(*names))
    return {path.relative_to(ROOT).as_posix(): part for path, part in found.by_image.items()}


def kinds(remarks) -> dict[str, int]:
    return {one.kind: one.count for one in remarks}


SIX = [f"good/{index:03d}.png" for index in range(6)]
EXPECTED = {name: "ABC"[index // 2] for index, name in enumerate(SIX)}


@pytest.mark.parametrize(
    "written",
    [
        "{stem}.png",
        "train/good/{stem}.png",
        "./good/{stem}.png",
        r"D:\line\good\{stem}.png",
        r"\\server\share\good\{stem}.png",
        r"good\{stem}.PNG",
        "{stem}",
        "GOOD/{stem}",
        "{stem}.bmp",
    ],
)
def test_a_line_names_an_image_however_it_is_written(tmp_path, written) -> None:
    lines = "".join(f"{written.format(stem=Path(name).stem)},{part}\n" for name, part in EXPECTED.items())
    assert matched(tmp_path, lines, *SIX) == EXPECTED


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace(",", ";").encode("cp1252"),
        lambda text: ("sep=;\r\n" + text.replace(",", ";").replace("\n", "\r\n")).encode("utf-8-sig"),
        lambda text: text.replace(",", "\t").encode("utf-16"),
        lambda text: ("Dateiname,Prüfling\n" + text).encode("cp1252"),
        lambda text: ("\n".join(f'"{name}","{part}"' for name, part in (r.split(",") for r in text.split()))).encode(),
        lambda text: text.replace(",", " , ").replace("\n", "  \n").encode(),
        lambda text: (text.replace("\n", ",,\n") + ",,,\n\n").encode(),
    ],
    ids=["BOM", "UTF-16", "CRLF", "CR", "semicolons", "sep", "tabs", "heading", "quotes", "spaces", "empty cells"],
)
def test_a_table_is_read_as_spreadsheets_write_it(tmp_path, encode) -> None:
    lines = "".join(f"{name},{part}\n" for name, part in EXPECTED.items())
    found = match_parts(read_parts(table(tmp_path, encode(lines))), images(*SIX))
    assert {path.relative_to(ROOT).as_posix(): part for path, part in found.by_image.items()} == EXPECTED
    assert found.remarks == ()


def test_names_and_parts_may_hold_commas(tmp_path) -> None:
    assert matched(tmp_path, "a,1.png;1,5\nb.png;1,5\n", "a,1.png", "b.png") == {"a,1.png": "1,5", "b.png": "1,5"}


def test_an_accent_may_be_composed_either_way(tmp_path) -> None:
    assert matched(tmp_path, "Pru\u0308fling.png,1\n", "Pr\u00fcfling.png") == {"Pr\u00fcfling.png": "1"}


def test_images_of_one_name_are_distinguished_by_their_folders(tmp_path) -> None:
    names = "cam1/000.png", "cam2/000.png"
    lines = "D:\\line\\cam1\\000.png,A\nline/cam2/000.png,B\n"
    assert matched(tmp_path, lines, *names) == {"cam1/000.png": "A", "cam2/000.png": "B"}
    with pytest.raises(DataError, match=r"line 1 .* names 2 images"):
        matched(tmp_path, "000.png,A\n", *names)


def test_the_line_that_agrees_furthest_decides(tmp_path) -> None:
    found = match_parts(
        read_parts(table(tmp_path, "cam1/000.png,A\ncam2/000.png,B\n")), [ROOT / "cam2/000.png"], others=()
    )
    assert found.by_image == {ROOT / "cam2/000.png": "B"}
    assert kinds(found.remarks) == {"parts_without_image": 1}


def test_exact_case_is_preferred_where_names_differ_in_nothing_else(tmp_path) -> None:
    assert matched(tmp_path, "a.png,1\nA.png,2\n", "a.png", "A.png") == {"a.png": "1", "A.png": "2"}


def test_two_parts_for_one_image_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="gives two parts"):
        matched(tmp_path, "a.png,1\na.png,2\n", "a.png")


def test_lines_of_test_images_are_of_those_and_not_left_over(tmp_path) -> None:
    lines = "train/good/000.png,A\ntest/good/000.png,B\ntest/good/001.png,B\n"
    train, test = images("train/good/000.png", "train/good/001.png"), images("test/good/000.png", "test/good/001.png")
    folder = ImageFolder(ROOT, "mvtec", tuple(train), tuple(TestImage(path, "good", None) for path in test))
    found = parts_of(folder, train, group_by=None, table=table(tmp_path, lines))
    assert found.by_image == {train[0]: "A"}
    assert kinds(found.remarks) == {"images_without_part": 1, "parts_of_one_image": 1}
    # A bare name means the images that are divided, though test images begin at 000 too.
    bare = parts_of(folder, train, group_by=None, table=table(tmp_path, "000.png,A\n001.png,A\n"))
    assert set(bare.by_image.values()) == {"A"}
    assert bare.remarks == ()


def test_what_does_not_match_is_counted_and_named(tmp_path) -> None:
    lines = "file;part\n" + "".join(f"{index:03d}.png;{index // 2}\n" for index in range(2, 12))
    found = match_parts(read_parts(table(tmp_path, lines)), images(*SIX))
    without_image, without_part = found.remarks
    assert (without_image.count, without_image.first) == (6, tuple(f"{index:03d}.png" for index in range(6, 11)))
    assert str(without_image).endswith("006.png, 007.png, 008.png, 009.png, 010.png and 1 more")
    assert (without_part.count, without_part.first) == (2, tuple(str(ROOT / name) for name in SIX[:2]))


def test_a_table_that_matches_nothing_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no line of .* names one of the 6 images") as caught:
        matched(tmp_path, "x.png,1\ny.png,1\n", *SIX)
    assert "x.png, y.png" in str(caught.value)


@pytest.mark.parametrize("text", ["", "only-a-name.png\n", "a.png,part 1,surplus\n", "a.png,\n", ",part 1\n"])
def test_a_file_that_is_no_list_of_parts_is_refused(tmp_path, text) -> None:
    with pytest.raises(DataError, match="is not a table of images and parts"):
        read_parts(table(tmp_path, text))
    with pytest.raises(DataError, match="cannot be read"):
        read_parts(tmp_path / "missing.csv")


# Expressions


def grouped(group_by: str, *names: str):
    folder = ImageFolder(ROOT, "plain", tuple(images(*names)), ())
    return parts_of(folder, images(*names), group_by=group_by, table=None)


def test_an_expression_groups_by_its_match_or_its_first_group() -> None:
    assert set(grouped(r"part\d", "part1-a.png", "part1-b.png").by_image.values()) == {"part1"}
    assert set(grouped(r"part(\d)", "part1-a.png", "part1-b.png").by_image.values()) == {"1"}


@pytest.mark.parametrize("group_by", [r"part(\d+)", r"x*", r"(part\d+)|img", "^$"])
def test_a_name_that_an_expression_says_nothing_about_is_refused(group_by) -> None:
    with pytest.raises(DataError, match=r"'img1\.png' belongs to no group"):
        grouped(group_by, "img1.png", "img2.png")


def test_an_expression_that_leaves_every_image_alone_says_so() -> None:
    assert kinds(grouped(r"\d+", "1.png", "2.png").remarks) == {"parts_of_one_image": 2}
    assert grouped(r"\d", "1a.png", "1b.png").remarks == ()


def test_an_expression_and_a_table_exclude_each_other(tmp_path) -> None:
    with pytest.raises(OptionError, match="both define which images show one part"):
        parts_of(ImageFolder(ROOT, "plain", (), ()), [], group_by="x", table=tmp_path / "parts.csv")


# Splitting


@pytest.mark.parametrize("seed", range(5))
def test_images_of_one_part_are_never_on_both_sides(tmp_path, seed) -> None:
    names = [f"{part}-{shot}.png" for part in range(8) for shot in range(5)]
    records = [ImageRecord(path, path.name, 8, 8, True) for path in images(*names)]
    lines = "".join(f"D:\\line\\{name},part {name[0]}\n" for name in names)
    parts = match_parts(read_parts(table(tmp_path, lines)), images(*names)).by_image
    sides = split_images(records, validation_fraction=0.3, train_fraction=1.0, seed=seed, parts=parts)
    training, held_out = ({record.path.name[0] for record in side} for side in sides)
    assert not training & held_out
    assert len(sides[1]) == 15


def test_parts_whose_names_differ_only_in_case_or_zeros_are_named(tmp_path) -> None:
    names = [f"{index}.png" for index in range(6)]
    file = table(tmp_path, "0.png,001\n1.png,1\n2.png,a07\n3.png,A7\n4.png,10\n5.png,100\n")
    folder = ImageFolder(tmp_path, "plain", tuple(images(*names)), ())
    found = {one.kind: one for one in parts_of(folder, images(*names), group_by=None, table=file).remarks}
    assert found["parts_alike"].first == ("001 and 1", "A7 and a07")


def test_the_commands_take_a_table_and_say_what_did_not_match(dataset, tmp_path, cli, tiny_options) -> None:
    written = "".join(rf"D:\parts\train\good\{index:03d}.PNG;{index % 2}" + "\r\n" for index in range(10))
    file = table(tmp_path, "\ufeffBild;Teil\r\n" + written)
    command = ("train", dataset, "--out", tmp_path / "run", *tiny_options, "--epochs", 1)
    record = cli(*command, "--parts", file, "--json").json
    remarks = {one["kind"]: one for one in record["remarks"]}
    assert remarks["images_without_part"]["count"] == 2
    config = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    sides = [
        {int(Path(name).stem) % 2 for name in config[side] if int(Path(name).stem) < 10}
        for side in ("train_images", "validation_images")
    ]
    assert not sides[0] & sides[1]
    refused = cli(*command, "--force", "--parts", table(tmp_path, "x.png,1\n"), code=2)
    assert "names one of the 12 images" in refused.stderr
    both = cli(*command, "--force", "--parts", file, "--group-by", "x", code=2)
    assert "both define which images show one part" in both.stderr
