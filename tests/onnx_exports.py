"""Networks that a test run has exported already are not exported again: PyTorch's exporter takes
seconds, and most tests export the same few networks."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdx.storage.files import write_atomic


class _Description(pickle.Pickler):
    """Everything that the exporter is given. In ``fast`` mode it depends on no identities."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.fast = True

    def reducer_override(self, given: Any) -> Any:
        torch = sys.modules["torch"]
        if isinstance(given, torch.Tensor):
            values = given.detach().contiguous().numpy()
            content = hashlib.sha256(values.tobytes()).hexdigest()
            return str, (f"{type(given)} {values.dtype} {values.shape} {given.requires_grad} {content}",)
        if isinstance(given, torch.export.Dim):
            return str, (f"{given.__name__} {given.min} {given.max}",)
        return NotImplemented


def _key(*given: object) -> str | None:
    """Return a hash of what the exporter is given, or None for what cannot be described."""
    file = io.BytesIO()
    try:
        _Description(file).dump(given)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, RecursionError):
        return None
    return hashlib.sha256(file.getvalue()).hexdigest()


def remember(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let ``torch.onnx.export`` take the graph of a fused detector from ``folder``, if it is there,
    and leave it there otherwise. Every process of a test run uses the same folder."""
    import onnx
    import torch

    export: Callable[..., Any] = torch.onnx.export

    def remembered(network: Any, *given: Any, **options: Any) -> Any:
        key = _key(network, given, options) if type(network).__name__ == "FusedDetector" else None
        if key is None:
            return export(network, *given, **options)
        file = folder / f"{key}.onnx"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(file, export(network, *given, **options).model_proto.SerializeToString())
        return SimpleNamespace(model_proto=onnx.load_model(file))

    patch.setattr(torch.onnx, "export", remembered)
    # The exporter reads the sources of its 500 operators for every graph. A PyTorch without such a
    # function is only slower.
    with contextlib.suppress(ImportError, AttributeError):
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        once = functools.lru_cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(once))
