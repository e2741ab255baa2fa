"""Networks that a test run has exported already are not exported again: PyTorch's exporter takes
seconds, and most tests export the same few networks."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import pickle
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdx.storage.files import write_atomic

# Attributes of a fused detector that no operation reads: its modules hold what follows from them.
_DECLARATIONS = frozenset({"border_weights", "input_spec"})
# The type, the shape and the content of a tensor.
_Values = tuple[str, tuple[int, ...], bytes]


class _Description(pickle.Pickler):
    """Everything that the exporter is given. In ``fast`` mode it depends on no identities.

    The values of a tensor are left out: it is described by its type, its shape and its place in
    ``values``, so that tensors are the same where their values are. The optimiser may remove an
    operation on zeros or ones: the value of a constant tensor is told.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.fast = True
        self.values: dict[_Values, int] = {}

    def reducer_override(self, given: Any) -> Any:
        torch = sys.modules["torch"]
        if isinstance(given, torch.Tensor):
            array = given.detach().contiguous().numpy()
            values = (str(array.dtype), array.shape, array.tobytes())
            place = self.values.setdefault(values, len(self.values))
            constant = array.flat[0].item() if array.size and (array == array.flat[0]).all() else None
            # Random weights that are multiplied by zero are zeros of either sign, which compare as
            # equal: the sign of the first decides nothing.
            constant = 0.0 if constant == 0 else constant
            return str, (f"{type(given)} {values[:2]} {given.requires_grad} {place} {constant}",)
        return NotImplemented


def _describe(*given: object) -> tuple[str, list[_Values]] | None:
    """Return a hash of what the exporter is given but for the values of tensors, and these values;
    or None for what cannot be described."""
    file = io.BytesIO()
    description = _Description(file)
    try:
        description.dump(given)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, RecursionError):
        return None
    return hashlib.sha256(file.getvalue()).hexdigest(), list(description.values)


def _computed(detector: Any) -> dict[str, Any]:
    """Return the attributes of a fused detector that its operations depend on."""
    return {name: value for name, value in vars(detector).items() if name not in _DECLARATIONS}


def _key(values: list[_Values], replaced: Collection[int]) -> str:
    """Return a hash of the values that are not replaced."""
    kept = hashlib.sha256()
    for place, (_, _, content) in enumerate(values):
        if place not in replaced:
            kept.update(b"%d %d " % (place, len(content)) + content)
    return kept.hexdigest()


def _weights(model: Any, values: list[_Values]) -> dict[str, int]:
    """Return which initializer holds which of the values.

    It is empty if another initializer of the graph was computed: nobody knows from which values.
    """
    from onnx import numpy_helper

    places = {each: place for place, each in enumerate(values)}
    found = {}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind != "f" or array.size == 1:
            continue
        place = places.get((str(array.dtype), array.shape, array.tobytes()))
        if place is None or not tensor.raw_data:
            return {}
        found[tensor.name] = place
    return found


def remember(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let ``torch.onnx.export`` take the graph of a fused detector from ``folder``, if it is there,
    and leave it there otherwise. Every process of a test run uses the same folder.

    Detectors that differ in their weights alone share a graph, whose initializers are replaced. The
    order of a camera's channels and the weights at the border are among these weights.
    """
    import onnx
    import torch

    export: Callable[..., Any] = torch.onnx.export

    @functools.wraps(export)
    def remembered(network: Any, *given: Any, **options: Any) -> Any:
        known = type(network).__name__ == "FusedDetector"
        described = _describe(_computed(network), given, options) if known else None
        if described is None:
            return export(network, *given, **options)
        structure, values = described
        for places in folder.glob(f"{structure}-*.json"):
            weights = json.loads(places.read_text(encoding="utf-8"))
            file = folder / f"{structure}-{_key(values, set(weights.values()))}.onnx"
            if file.exists():
                model = onnx.load_model(file)
                for tensor in model.graph.initializer:
                    if tensor.name in weights:
                        tensor.raw_data = values[weights[tensor.name]][2]
                return SimpleNamespace(model_proto=model)
        model = export(network, *given, **options).model_proto
        weights = _weights(model, values)
        key = _key(values, set(weights.values()))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{structure}-{key}.onnx", model.SerializeToString())
        write_atomic(folder / f"{structure}-{key}.json", json.dumps(weights).encode())
        return SimpleNamespace(model_proto=onnx.load_model(folder / f"{structure}-{key}.onnx"))

    patch.setattr(torch.onnx, "export", remembered)
    # The exporter reads the sources of its 500 operators for every graph. A PyTorch without such a
    # function is only slower.
    with contextlib.suppress(ImportError, AttributeError):
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        once = functools.lru_cache(ONNXRegistry.from_torchlib)
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(once))
