"""The images of a calibration are known again, whatever it did with each of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from kdx.bundle.manifest import TRAINING_IMAGES
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.folders.copies import identified
from kdx.folders.data_folder import open_folder
from kdx.imaging.image_identity import identify
from kdx.workflows.calibration_images import chosen_on
from kdx.workflows.report.report_images import choose_images

RATE = ("--false-reject-rate", 0.2)


def leave_out(bundle: Path, image: Path) -> None:
    """Record an image as one that the training left out as odd."""
    opened = open_bundle(bundle)
    listed = {"images": opened.training_images().images, "left_out": [identify(image)]}
    (bundle / TRAINING_IMAGES).write_text(json.dumps(msgspec.to_builtins(listed)), encoding="utf-8")
    write_manifest(bundle, opened.manifest)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("scored", RATE),
        ("fitted", (*RATE, "--per-position")),
        ("without a part", RATE),
        ("without a part", ("--threshold", 0.4, "--reason", "as on line 2")),
        ("left out", RATE),
        ("defective", ("--with-defects", "DEFECTS")),
        ("defective without a part", ("--with-defects", "DEFECTS")),
    ],
)
def test_a_folder_holds_the_calibration(cli, bundle_copy, cells, dataset, tmp_path, kind, options):
    parts = Path(shutil.copytree(cells, tmp_path / "parts"))
    if kind == "without a part":
        Image.new("L", (64, 64)).save(parts / "lamp-off.png")
    if kind == "left out":
        leave_out(bundle_copy, parts / "05.png")
    defects = Path(shutil.copytree(dataset / "test/scratch", tmp_path / "scratch"))
    if kind == "defective without a part":
        Image.new("L", (64, 64)).save(defects / "lamp-off.png")
        Image.new("L", (64, 64), 255).save(parts / "overexposed.png")
    given = (defects if each == "DEFECTS" else each for each in options)
    cli("calibrate", bundle_copy, parts, *given, "--backend", "onnxruntime-cpu")
    bundle = open_bundle(bundle_copy)
    assert choose_images(bundle, open_folder(parts), 100).holds_calibration
    shutil.copy(dataset / "test/good/012.png", parts / "another.png")
    assert not choose_images(bundle, open_folder(parts), 100).holds_calibration
    (parts / "another.png").unlink()
    for name in ("00.png", "15.png"):  # one of them may have fitted the level map
        moved = (parts / name).rename(tmp_path / name)
        assert not choose_images(bundle, open_folder(parts), 100).holds_calibration
        moved.rename(parts / name)


def test_no_image_chose_a_threshold_that_a_person_set(cli, bundle_copy, cells, tmp_path):
    parts = Path(shutil.copytree(cells, tmp_path / "parts"))
    Image.new("L", (64, 64)).save(parts / "lamp-off.png")
    by_hand = ("--threshold", 0.4, "--reason", "as on line 2")
    cli("calibrate", bundle_copy, parts, *by_hand, "--backend", "onnxruntime-cpu")
    assert chosen_on(open_bundle(bundle_copy), identified(parts.iterdir())) == []
