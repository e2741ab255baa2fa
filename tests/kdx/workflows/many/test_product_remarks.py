"""A product's result says all that training, calibration and evaluation say."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

from PIL import Image

from kdx.bundle.open import open_bundle
from kdx.folders.data_folder import open_folder
from kdx.remarks import remark
from kdx.workflows.calibrate import CalibrationRequest, calibrate_each
from kdx.workflows.many.product_remarks import remarks_on_product


def test_what_each_step_says_is_in_the_result_once(bundle_copy, cells, tmp_path):
    folder = Path(shutil.copytree(cells, tmp_path / "cells"))
    Image.new("L", (64, 64)).save(folder / "black.png")
    shutil.copy(folder / "00.png", folder / "copy.png")
    request = CalibrationRequest(0.2, backend="onnxruntime-cpu")
    calibrated = calibrate_each(open_bundle(bundle_copy), open_folder(folder).good, request)
    calibrated.exact.frame_outliers.append("wide.png")
    training = remark("copies", "said by the training", ["00.png"])
    scores = remark("overlap", "said by the evaluation", ["x.png"])
    evaluation = SimpleNamespace(bad_images={"bad.png": "'bad.png' is empty"}, remarks=tuple(scores), masks=None)
    found = remarks_on_product(training, calibrated, evaluation)
    said = {each.kind: each for each in found}
    assert len(said) == len(found)
    assert said["no_part"].first == (str(folder / "black.png"),)
    assert said["frame_outliers"].count == 1
    assert said["copies"].text == "said by the training"
    assert {each.kind for each in calibrated.remarks} <= said.keys()
    assert {"overlap", "skipped"} <= said.keys()
    assert remarks_on_product(training, calibrated, None)[0] == training[0]
