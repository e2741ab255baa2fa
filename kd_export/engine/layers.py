"""The precisions of an engine's layers, from the engine if it loads, else from the network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from kdx.bundle.engine_record import Layer
from kdx.bundle.graph_contract import TAIL
from kdx.errors import GateError

_CONVOLUTIONS = ("convolution", "deconvolution")
# The names of TensorRT's Python types, and those of its inspector in formats, weights and tactics.
_NAMES = {"float": "fp32", "float32": "fp32", "half": "fp16", "float16": "fp16", "fp16": "fp16", "fp32": "fp32"}


def network_layers(network: Any) -> list[Layer]:
    """Return a typed network's layers, which it demands of the engine.

    A convolution counts as FP16 only where its input and its output are.
    """
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        types = {_name(layer.get_output(i).dtype) for i in range(layer.num_outputs)}
        kind = str(layer.type).rpartition(".")[2].lower()
        if kind in _CONVOLUTIONS:
            types.add(_name(layer.get_input(0).dtype))
        layers.append(Layer(name=layer.name, kind=kind, precision="+".join(sorted(types))))
    return layers


def engine_layers(information: str) -> list[Layer]:
    """Return an engine's layers from its inspector's JSON (TensorRT 8.6 to 11 and for RTX).

    Fused layers keep the names of what they hold, in their name or their metadata.
    """
    layers = []
    for entry in json.loads(information).get("Layers", []):
        if isinstance(entry, str):  # built without detailed profiling: names alone
            layers.append(Layer(name=entry, kind="", precision=""))
            continue
        tensors = [*entry.get("Inputs", []), *entry.get("Outputs", [])]
        types = {_datatype(str(tensor.get("Format/Datatype", tensor.get("Datatype", "")))) for tensor in tensors}
        name = f"{entry.get('Name', '')} {entry.get('Metadata', '')}".strip()
        kind = str(entry.get("ParameterType") or entry.get("LayerType", "")).lower()
        layers.append(Layer(name=name, kind=kind, precision="+".join(sorted(types - {""}))))
    return layers


def require_half_convolutions(demanded: Iterable[Layer], built: Iterable[Layer]) -> None:
    """Check that the convolutions that the network demands in FP16 are FP16 in the engine.

    Args:
        demanded: The network's layers.
        built: The engine's layers, or the network's again if the engine cannot be loaded.

    Raises:
        GateError: No convolution is FP16, the engine shows none, or the named ones are not FP16.
    """
    wanted = [layer.name for layer in demanded if layer.kind in _CONVOLUTIONS and layer.precision == "fp16"]
    if not wanted:
        raise GateError(
            "the network holds no FP16 convolution",
            fix="export an FP16 graph and build again: kdx export RUN --precision fp32,fp16",
        )
    seen, wrong = 0, []
    built = list(built)
    for name in wanted:
        homes = [layer for layer in built if _holds(layer.name, name)]
        seen += bool(homes)
        if homes and not any("fp16" in layer.precision for layer in homes):
            wrong.append(f"{name} ({homes[0].precision})")
    if not seen:
        raise GateError(
            "the engine shows none of the network's convolutions: FP16 cannot be confirmed",
            received=f"{len(built)} layers, e.g. {built[0].name if built else 'none'}",
        )
    if wrong:
        raise GateError(
            f"{len(wrong)} of {len(wanted)} convolutions are not FP16 in the engine",
            received=", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else ""),
            fix="no plan was written",
        )


def count_layers(layers: Iterable[Layer]) -> dict[str, int]:
    """Count the networks' convolutions by precision, and all other layers together."""
    counts: dict[str, int] = {}
    for layer in layers:
        is_counted = "conv" in layer.kind and not layer.name.startswith(TAIL)
        key = f"{layer.precision} convolutions" if is_counted else "other layers"
        counts[key] = counts.get(key, 0) + 1
    return counts


def _holds(fused: str, name: str) -> bool:
    """Whether a layer's name, which may join several names, holds a node's whole name."""
    start = fused.find(name)
    while start >= 0:
        end = start + len(name)
        if end == len(fused) or not (fused[end].isalnum() or fused[end] in "._/"):
            return True
        start = fused.find(name, end)
    return False


def _name(dtype: Any) -> str:
    text = str(dtype).rpartition(".")[2].lower()
    return _NAMES.get(text, text)


def _datatype(text: str) -> str:
    lower = text.lower()
    return next((name for key, name in _NAMES.items() if key in lower), lower.split(" ")[0])
