"""What the kernels are timed against, without a GPU: the tail in the graph computes in FP32."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kd_export.graph import Combine, Distance, MapSpec, PairSpec, Tap
from kd_export.graph.tail import Tail
from kernels import measure

SPEC = PairSpec((MapSpec((Tap("a", Distance.HALF_SQUARED_L2),), Combine.SUM),))
SHAPE = (8, 6, 6)


class Detector:
    """A detector whose networks return what they are given."""

    spec, size = SPEC, (12, 12)
    pair = torch.nn.Module()

    def __init__(self) -> None:
        self.pair.forward = lambda x: [(x, x + 1)]

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        return images.float()


@pytest.mark.parametrize("timed", ["tail", "detector"])
def test_the_reference_is_computed_without_tf32(timed: str, monkeypatch) -> None:
    seen: list[bool] = []

    class Watched(Tail):
        def forward(self, features: Any) -> Any:
            seen.append(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
            return super().forward([(t.float(), s.float()) for t, s in features])

    class Fused(Tail):
        def launches(self, features: Any) -> Any:
            return [[]]

    times = {"median_us": 1.0}
    monkeypatch.setitem(sys.modules, "kernels.fused_tail", SimpleNamespace(FusedTail=Fused))
    monkeypatch.setattr(measure, "Tail", Watched)
    monkeypatch.setattr(measure, "require_cuda", lambda: torch.device("cpu"))
    monkeypatch.setattr(measure, "captured", lambda run: run)
    monkeypatch.setattr(measure, "time_runs", lambda runs: {name: (run(), times)[1] for name, run in runs.items()})
    monkeypatch.setattr(torch, "compile", lambda module: module)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    if timed == "tail":
        measure.time_tail(SPEC, [SHAPE], (12, 12), 2)
    else:
        measure.time_detector(Detector(), torch.zeros(2, *SHAPE, dtype=torch.uint8).numpy())  # type: ignore[arg-type]
    assert set(seen) == {False}
    assert torch.backends.cudnn.allow_tf32
