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
    calibrated.missing["int8"] = ["openvino", "tensorrt"]
    copies = remark("copies", "said by the training", ["00.png"])
    stage = SimpleNamespace(remarks=remark("stage", "said by the INT8 stage", ["x"]), bad_images={}, int8=None)
    further = {Path("further.png"): "'further.png' is empty", Path("bad.png"): "'bad.png' is empty"}
    trained = SimpleNamespace(remarks=copies, bad_images=further, int8=stage)
    seams = remark("seams", "said of the bundle", ["y"])
    scores = remark("overlap", "said by the evaluation", ["x.png"])
    evaluation = SimpleNamespace(bad_images={"bad.png": "'bad.png' is empty"}, remarks=tuple(scores), masks=None)
    found = remarks_on_product(trained, seams, calibrated, evaluation)
    said = {each.kind: each for each in found}
    assert len(said) == len(found)
    assert said["no_part"].first == (str(folder / "black.png"),)
    assert said["frame_outliers"].count == 1
    assert said["copies"].text == "said by the training"
    assert {each.kind for each in calibrated.remarks} <= said.keys()
    assert {"overlap", "stage", "seams"} <= said.keys()
    assert said["skipped"].first == ("'further.png' is empty", "'bad.png' is empty")
    assert str(said["not_measured_here"]) == (
        "2 runtimes that cannot run int8 here have no threshold for it, and give no verdict until kdx calibrate, with "
        "the same images, on a machine that can: openvino, tensorrt"
    )
    assert remarks_on_product(None, seams, calibrated, None)[0] == seams[0]
