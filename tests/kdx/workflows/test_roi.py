"""Regions of interest that are proposed or set."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from PIL import Image

from kdx.bundle.manifest import CROP_SCHEMA
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.errors import ImageError, InputError
from kdx.folders.data_folder import FolderOptions, open_folder
from kdx.progress import SILENT
from kdx.workflows.roi import propose, region_of, write_proposal


def test_so_many_damaged_images_are_skipped_and_named(tiny_bundle, dataset_copy):
    bundle = open_bundle(tiny_bundle)
    expected = propose(bundle, open_folder(dataset_copy), 20.0, {}, 0, SILENT)
    damaged = dataset_copy / "train/good/damaged.png"
    damaged.write_bytes(b"no image")
    bad: dict[str, str] = {}
    found = propose(bundle, open_folder(dataset_copy), 20.0, bad, 1, SILENT)
    assert list(bad) == [str(damaged)]
    assert (found == expected).all()
    with pytest.raises(ImageError, match=r"damaged\.png"):
        propose(bundle, open_folder(dataset_copy), 20.0, {}, 0, SILENT)


def test_a_region_that_only_excludes_what_lies_outside_of_the_window_is_refused(
    bundle_copy, cells, tmp_path, monkeypatch
):
    manifest = open_bundle(bundle_copy).manifest
    seen = msgspec.structs.replace(manifest.input, crop=(16, 16, 32, 32))
    write_manifest(bundle_copy, msgspec.structs.replace(manifest, input=seen, schema=CROP_SCHEMA))
    index, file = (bundle_copy / "bundle.json").read_bytes(), tmp_path / "mask.png"
    mask = np.full((seen.height, seen.width), 255, np.uint8)
    mask[:, :16] = 0
    Image.fromarray(mask).save(file)
    with pytest.raises(InputError, match="changes nothing") as caught:
        region_of(bundle_copy, file, remove=False)
    assert caught.value.expected == "0 somewhere within columns 16 to 48 and rows 16 to 48"
    monkeypatch.setattr("kdx.workflows.roi.propose", lambda *_: mask)
    options = {"category": None, "options": FolderOptions(), "varies": None, "max_bad_images": 0, "force": False}
    with pytest.raises(InputError, match="changes nothing"):
        write_proposal(open_bundle(bundle_copy), cells, tmp_path / "new.png", progress=SILENT, **options)
    assert not (tmp_path / "new.png").exists()
    assert (bundle_copy / "bundle.json").read_bytes() == index
    mask[16, 16] = 0
    Image.fromarray(mask).save(file)
    assert region_of(bundle_copy, file, remove=False).is_changed
