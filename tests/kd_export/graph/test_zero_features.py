"""Features of zero, as rectified ones of a black image may be, give a finite map in every
runtime."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from kd_export.graph import Combine, Distance, FusedDetector, Join, MapSpec, PairSpec, Tap
from kd_export.onnx.onnx_export import export_onnx
from kdx.imaging.images import InputSpec

SPEC = InputSpec(height=16, width=16)


class HalfDead(nn.Module):
    """A student that is blind, and a teacher that is blind in the left half."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.student = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        nn.init.zeros_(self.student.weight)
        nn.init.zeros_(self.student.bias)
        self.register_buffer("seen", (torch.arange(8) >= 4).float())

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        taps = self.teacher(x) * self.seen, self.student(x)
        return [taps, taps]


def detector_of(distance: Distance, join: Join) -> FusedDetector:
    torch.manual_seed(0)
    tap = Tap("tap", distance)
    part = MapSpec((tap,), Combine.PRODUCT)
    maps = (part, part) if join is Join.CONFIRMED else (MapSpec((tap, tap), Combine.SUM),)
    return FusedDetector(HalfDead(), PairSpec(maps, join), SPEC, (16, 16), (0.5,) * 3, (0.2,) * 3)


@pytest.mark.slow
@pytest.mark.parametrize("join", [Join.SINGLE, Join.CONFIRMED])
@pytest.mark.parametrize("distance", list(Distance))
def test_zero_features_are_half_a_distance_or_none(distance, join, tmp_path) -> None:
    detector = detector_of(distance, join)
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    export_onnx(detector, tmp_path / "model.onnx", max_batch=1, metadata={})
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    found = {"onnxruntime": session.run(["anomaly_map"], {"image": image})[0]}
    if find_spec("openvino") is not None:
        from kdx.bundle.checked_files import Graph
        from kdx.runtime.openvino.backend import OpenVino

        found["openvino"] = OpenVino(Graph.of(tmp_path / "model.onnx"), 1).run(image).maps
    with torch.inference_mode():
        expected, _ = detector(torch.from_numpy(image))
    for runtime, anomaly_map in found.items():
        assert np.isfinite(anomaly_map).all(), runtime
        np.testing.assert_allclose(anomaly_map, expected.numpy(), atol=1e-6, err_msg=runtime)
    if join is Join.SINGLE:
        # Two taps: unit vectors against zero are ½ by L2 and 1 by cosine; zero against zero is 0,
        # by cosine 1.
        left, right = (0.0, 0.5) if distance is Distance.HALF_SQUARED_L2 else (1.0, 1.0)
        assert expected[0, 0, 0] == pytest.approx(2 * left, abs=1e-6)
        assert expected[0, 0, -1] == pytest.approx(2 * right, abs=1e-6)
