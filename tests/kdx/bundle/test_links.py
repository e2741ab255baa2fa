"""Bundles with symbolic links: the layout of a model hub's cache, and links that lead out of a
bundle."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.decision.roi import RoiFrame, roi_of, set_roi
from kdx.errors import BundleError, InputError
from kdx.storage.files import sha256_file
from tests.platforms import needs_links

pytestmark = needs_links


def as_in_a_hub(bundle: Path, root: Path) -> Path:
    """Lay a bundle out as a model hub's cache does: content by its hash, and links to it in a
    snapshot."""
    blobs, snapshot = root / "models--line/blobs", root / "models--line/snapshots/abc/tile.kdx"
    blobs.mkdir(parents=True)
    for file in sorted(each for each in bundle.rglob("*") if each.is_file()):
        blob = blobs / sha256_file(file)
        shutil.copyfile(file, blob)
        link = snapshot / file.relative_to(bundle)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in folder.iterdir()}


def square(bundle: Path, offset: int = 0):
    mask = np.zeros((64, 64), np.uint8)
    mask[8 + offset : 48, 8:48] = 255
    return RoiFrame.of(open_bundle(bundle).manifest).roi(mask)


def test_a_bundle_in_a_hubs_cache_decides_as_the_bundle(tiny_bundle, tmp_path, frame, cli) -> None:
    snapshot = as_in_a_hub(tiny_bundle, tmp_path)
    assert open_bundle(snapshot).manifest == open_bundle(tiny_bundle).manifest
    scores = []
    for path in (tiny_bundle, snapshot):
        with kdx.load(path, backend="onnxruntime-cpu", threads=1) as detector:
            scores.append(detector(frame).score)
    assert scores[0] == scores[1]
    cli("inspect", snapshot)


def test_what_changes_it_leaves_the_hubs_content_alone(tiny_bundle, tmp_path, dataset, cli) -> None:
    snapshot = as_in_a_hub(tiny_bundle, tmp_path)
    blobs = snapshot.parents[2] / "blobs"
    before = hashes(blobs)
    cli("calibrate", snapshot, dataset, "--false-reject-rate", 0.2, "--backend", "onnxruntime-cpu")
    set_roi(open_bundle(snapshot), square(snapshot))
    assert roi_of(open_bundle(snapshot)) is not None
    assert hashes(blobs) == before
    # Files of their own now: what is written into the bundle later never reaches the cache.
    files = [file for file in snapshot.rglob("*") if file.is_file()]
    assert not any(file.is_symlink() for file in files)
    shared = {(blob.stat().st_dev, blob.stat().st_ino) for blob in blobs.iterdir()}
    assert not shared & {(file.stat().st_dev, file.stat().st_ino) for file in files}


def test_a_link_whose_content_was_changed_is_refused(tiny_bundle, tmp_path) -> None:
    snapshot = as_in_a_hub(tiny_bundle, tmp_path)
    opened = open_bundle(snapshot)
    blob = (snapshot / "model.onnx").resolve()
    blob.write_bytes(blob.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"is a link to a file outside the bundle(.|\n)*cp -rL"):
        open_bundle(snapshot)
    with pytest.raises(BundleError, match="was replaced or altered after the bundle was opened"):
        opened.graph.read()


def test_a_link_that_leads_nowhere_is_named(tiny_bundle, tmp_path, bundle_copy) -> None:
    snapshot = as_in_a_hub(tiny_bundle, tmp_path)
    (snapshot / "model.onnx").resolve().unlink()
    with pytest.raises(BundleError, match=r"is a link to '.*', which does not exist(.|\n)*cp -rL"):
        open_bundle(snapshot)
    (bundle_copy / "bundle.json").unlink()
    (bundle_copy / "bundle.json").symlink_to("bundle.json")
    with pytest.raises(BundleError, match=r"'bundle\.json' in '.*' is a link that leads back to itself"):
        open_bundle(bundle_copy)


def test_nothing_outside_a_bundle_is_linked_into_it(bundle_copy, tmp_path) -> None:
    outside = tmp_path / "outside"
    (outside / "golden").mkdir(parents=True)
    (outside / "secret.txt").write_text("secret", encoding="utf-8")
    # Not listed: a link to a file, to a folder, to nothing, and an engine of the bundle's own.
    (bundle_copy / "notes.txt").symlink_to(outside / "secret.txt")
    (bundle_copy / "more").symlink_to(outside)
    (bundle_copy / "nothing").symlink_to("nowhere")
    (bundle_copy / "engines/one").mkdir(parents=True)
    (bundle_copy / "engines/one/model.plan").write_bytes(b"plan")
    # A listed file whose folder is a link.
    shutil.move(bundle_copy / "golden", outside / "kept")
    (bundle_copy / "golden").symlink_to(outside / "kept")
    before = {file: (file.read_bytes(), file.stat().st_nlink) for file in outside.rglob("*") if file.is_file()}

    set_roi(open_bundle(bundle_copy), square(bundle_copy))
    set_roi(open_bundle(bundle_copy), square(bundle_copy, 4))

    after = {file: (file.read_bytes(), file.stat().st_nlink) for file in outside.rglob("*") if file.is_file()}
    assert after == before
    for name in ("notes.txt", "more", "nothing"):
        assert (bundle_copy / name).is_symlink()
    assert (bundle_copy / "engines/one/model.plan").read_bytes() == b"plan"
    assert not (bundle_copy / "golden").is_symlink()
    assert open_bundle(bundle_copy).golden().scores.size


@pytest.mark.parametrize("path", ["a.png", Path("parts/a.png")])
def test_a_file_in_the_place_of_an_image(tiny_bundle, path) -> None:
    with kdx.load(tiny_bundle, backend="onnxruntime-cpu", threads=1) as detector:
        for judge in (detector, detector.batch, detector.outputs, lambda image: detector.batch([image])):
            with pytest.raises(InputError, match="arrays, not as files") as caught:
                judge(path)
            assert f"kdx.read_image({os.fspath(path)!r}, detector.input)" in caught.value.fix
