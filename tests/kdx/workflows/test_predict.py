"""Judging image files: names of bundles and heat maps, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kdx.errors import DataError, OptionError, OutputError
from kdx.folders.image_search import LeftOut
from kdx.workflows.predict import expand, judge_files, require_apart


def overlays_of(bundles: list[Path], images: list[Path], folder: Path, **options) -> dict[str, Path]:
    """Judge images and return each heat map's path in the folder, with its image."""
    records: list[dict] = []
    first, *also = bundles
    judge_files(first, images, records, {}, also=also, overlay=folder, backend="onnxruntime-cpu", threads=1, **options)
    found = {Path(record["overlay"]).relative_to(folder).as_posix(): Path(record["image"]) for record in records}
    assert all((folder / name).is_file() for name in found)
    assert len(found) == len(records)
    return found


def test_heat_maps_and_bundles_of_one_name_are_kept_apart(tiny_bundle, dataset, tmp_path):
    image = next((dataset / "test/good").iterdir())
    images = [tmp_path / name for name in ("a/1.png", "b/1.png", "b/2.png")]
    for path in images:
        path.parent.mkdir(exist_ok=True)
        shutil.copy(image, path)
    names = overlays_of([tiny_bundle], images, tmp_path / "one")
    assert names == dict(zip(("a-1.png.png", "b-1.png.png", "2.png"), images, strict=True))

    bundles = [Path(shutil.copytree(tiny_bundle, tmp_path / line / "tile.kdx")) for line in ("left", "right")]
    names = overlays_of(bundles, images[2:], tmp_path / "two")
    assert set(names) == {"left-tile/2.png", "right-tile/2.png"}
    third = Path(shutil.copytree(tiny_bundle, tmp_path / "other/left/tile.kdx"))
    names = overlays_of([bundles[0], third], images[2:], tmp_path / "three")
    assert set(names) == {"left-tile/2.png", "left-tile_/2.png"}


def test_a_heat_map_replaces_no_image(tiny_bundle, dataset, tmp_path):
    image = Path(shutil.copy(next((dataset / "test/good").iterdir()), tmp_path / "1.png"))
    before = image.read_bytes()
    with pytest.raises(OutputError, match="would replace an image"):
        overlays_of([tiny_bundle], [image], tmp_path, force=True)
    assert image.read_bytes() == before
    other = tmp_path / "maps"
    overlays_of([tiny_bundle], [image], other)
    with pytest.raises(OutputError, match="exists"):
        overlays_of([tiny_bundle], [image], other)
    overlays_of([tiny_bundle], [image], other, force=True)


def test_heat_maps_beside_single_images_are_refused_except_where_the_user_works(tmp_path, monkeypatch):
    image = tmp_path / "parts/1.png"
    image.parent.mkdir()
    image.write_bytes(b"")
    for images in ([image], [image.parent]):
        with pytest.raises(OutputError, match="would lie among the images"):
            require_apart(image.parent / "maps", images)
        require_apart(tmp_path / "maps", images)
    monkeypatch.chdir(image.parent)
    require_apart(image.parent / "maps", [image])
    with pytest.raises(OutputError, match="would lie among the images"):
        require_apart(image.parent / "maps", [image.parent])


def test_a_shared_teacher_needs_several_bundles(tmp_path):
    with pytest.raises(OptionError, match="`shared_teacher` needs several bundles"):
        judge_files(tmp_path / "tile.kdx", [], [], {}, shared_teacher=True)


def test_files_and_folders_are_taken_once(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    files = [tmp_path / "full" / name for name in ("1.png", "2.png")]
    for file in files:
        file.write_bytes(b"")
    assert expand([files[1], tmp_path / "full"], LeftOut()) == [files[1], files[0]]
    with pytest.raises(DataError, match="no images were found in"):
        expand([tmp_path / "empty"], LeftOut())
