"""Proposing a region of interest where some images are damaged."""

from __future__ import annotations

import pytest

from kdx.bundle.open import open_bundle
from kdx.errors import ImageError
from kdx.folders.data_folder import open_folder
from kdx.progress import SILENT
from kdx.workflows.roi import propose


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
