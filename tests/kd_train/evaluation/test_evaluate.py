"""What scoring a test split keeps in memory."""

from __future__ import annotations

import shutil

import kdx
from kd_train.evaluation.evaluate import score_images
from kdx.folders.data_folder import open_folder


def test_maps_are_kept_only_where_masks_are_compared_with_them(tiny_bundle, dataset_copy):
    with kdx.load(tiny_bundle, "onnxruntime-cpu") as detector:
        with_masks = score_images(detector, open_folder(dataset_copy).test)
        shutil.rmtree(dataset_copy / "ground_truth")
        without = score_images(detector, open_folder(dataset_copy).test)
    assert (len(with_masks.maps), without.maps, without.masks) == (8, {}, None)
    assert without.scores.tolist() == with_masks.scores.tolist()
