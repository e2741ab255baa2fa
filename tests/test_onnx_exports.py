"""A graph that a test run takes from an earlier export is the one that the exporter would write."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kd_export.graph import FusedDetector
from kd_export.onnx.onnx_export import export_onnx
from kdx.imaging.images import InputSpec
from tests.onnx_exports import _describe, remember
from tests.pairs import make_pair


class AskedError(Exception):
    """The exporter was asked for a third graph."""


def detector(seed: int, channel_order: str):
    """A detector with weights of its own, those at the border too."""
    pair = make_pair("stpm", "test_resnet", sigma=1.5, seed=seed)
    spec = InputSpec(height=64, width=64, channel_order=channel_order)
    border = tuple(np.linspace(0.1 + 0.1 * seed, 1.0, 32).tolist())
    return FusedDetector(pair, pair.spec, spec, (64, 64), pair.mean, pair.std, border_weights=[border])


@pytest.mark.slow
def test_replaced_weights_give_the_bytes_of_an_export(tmp_path, monkeypatch):
    exporter = torch.onnx.export.__wrapped__
    calls = []

    def counted(*given, **options):
        calls.append(given)
        if len(calls) > 2:
            raise AskedError
        return exporter(*given, **options)

    monkeypatch.setattr(torch.onnx, "export", counted)
    one, other = detector(0, "rgb"), detector(1, "bgr")
    export_onnx(other, tmp_path / "exported.onnx", max_batch=4, metadata={})
    remember(monkeypatch, tmp_path / "graphs")
    export_onnx(one, tmp_path / "one.onnx", max_batch=8, metadata={})
    assert len(calls) == 2
    export_onnx(other, tmp_path / "taken.onnx", max_batch=4, metadata={})
    assert len(calls) == 2
    exported, taken, before = (tmp_path / f"{name}.onnx" for name in ("exported", "taken", "one"))
    assert taken.read_bytes() == exported.read_bytes()
    assert taken.read_bytes() != before.read_bytes()
    # The batch size is set afterwards. A weight that is zero everywhere makes another graph.
    export_onnx(other, tmp_path / "static.onnx", max_batch=1, metadata={})
    assert len(calls) == 2
    with torch.no_grad():
        next(parameter for parameter in one.parameters() if parameter.ndim == 4).zero_()
    with pytest.raises(AskedError):
        export_onnx(one, tmp_path / "zero.onnx", max_batch=4, metadata={})


def test_zeros_of_either_sign_are_of_one_structure():
    zeros = torch.zeros(2, 3)
    structures = [_describe(each)[0] for each in (zeros, -zeros, zeros + 1)]
    assert structures[0] == structures[1] != structures[2]
