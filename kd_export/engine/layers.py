"""The precisions of an engine's layers, as TensorRT reports and as its network demands them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from kdx.bundle.engine_record import Layer
from kdx.bundle.graph_contract import TAIL
from kdx.errors import GateError

_CONVOLUTIONS = ("convolution", "deconvolution")
# The names of TensorRT's Python types, and those of its inspector in formats, weights and tactics.
# A name that contains another one stands before it.
_NAMES = {
    "float16": "fp16",
    "half": "fp16",
    "fp16": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "fp32": "fp32",
    "uint8": "uint8",
    "int8": "int8",
}
# A layer as the builder logs it, with tensors in braces.
_LOGGED = re.compile(
    r"Name: (?P<Name>.*), LayerType: (?P<LayerType>\w+), Inputs: \[(?P<Inputs>.*?)\], "
    r"Constants: \[(?P<Constants>.*?)\], Outputs: \[(?P<Outputs>.*?)\], TacticName: .*Metadata: (?P<Metadata>.*)"
)


def network_layers(network: Any) -> list[Layer]:
    """Return a network's layers, which it demands of the engine.

    A convolution counts as FP16 only where its input and its output are, and as INT8 where its
    input was quantised. In a weakly typed network, whose tensors may have no types before the
    build, a convolution has the precision to which it was pinned.
    """
    layers: list[Layer] = []
    dequantised: set[str] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        types = {_name(output.dtype) for output in outputs}
        kind = str(layer.type).rpartition(".")[2].lower()
        if kind == "dequantize":
            dequantised.update(output.name for output in outputs)
        if kind in _CONVOLUTIONS:
            source = layer.get_input(0)
            if getattr(layer, "precision_is_set", False):  # TensorRT 11 has no such attribute
                types = {_name(layer.precision)}
            else:
                types = {"int8"} if source.name in dequantised else types | {_name(source.dtype)}
        layers.append(Layer(name=layer.name, kind=kind, precision="+".join(sorted(types))))
    return layers


def engine_layers(information: str) -> list[Layer]:
    """Return an engine's layers from its inspector's JSON (TensorRT 8.6 to 11 and for RTX).

    Fused layers keep the names of what they hold, in their name or their metadata. A layer that
    multiplies int8 by int8 counts as INT8, whatever the type of its output.
    """
    layers = []
    for entry in json.loads(information).get("Layers", []):
        if isinstance(entry, str):  # built without detailed profiling: names alone
            layers.append(Layer(name=entry, kind="", precision=""))
            continue
        inputs, outputs, constants = (
            [_datatype(str(tensor.get("Format/Datatype", tensor.get("Datatype", "")))) for tensor in entry.get(key, [])]
            for key in ("Inputs", "Outputs", "Constants")
        )
        if "Weights" in entry:  # of TensorRT 8.6 and 10, which list no constants
            constants.append(_datatype(str(entry["Weights"].get("Type", ""))))
        kind = str(entry.get("ParameterType") or entry.get("LayerType", ""))
        name = f"{entry.get('Name', '')} {entry.get('Metadata', '')}"
        layers.append(_layer(name, kind, inputs, outputs, constants))
    return layers


def logged_layers(log: str) -> list[Layer]:
    """Return an engine's layers from what the builder of TensorRT for RTX logs about it.

    It needs no GPU, and has the content of the inspector's JSON. Of other texts, no layers.
    """
    layers = []
    for entry in filter(None, map(_LOGGED.fullmatch, log.split("\n"))):
        inputs, outputs, constants = (
            [_datatype(found) for found in re.findall(r"Datatype: (\w+)", entry[key])]
            for key in ("Inputs", "Outputs", "Constants")
        )
        layers.append(_layer(f"{entry['Name']} {entry['Metadata']}", entry["LayerType"], inputs, outputs, constants))
    return layers


def require_convolutions(demanded: Iterable[Layer], built: Collection[Layer], precision: str) -> None:
    """Check that the convolutions that the network demands in a precision have it in the engine.

    In INT8, transposed convolutions may be FP32 on the same quantised values, which changes no
    result: TensorRT for RTX has no INT8 kernel for them.

    Args:
        demanded: The network's layers.
        built: The engine's layers, or the network's again if the engine's are not known.
        precision: ``fp16`` or ``int8``.

    Raises:
        GateError: No convolution is demanded in it, the engine shows none, or the named ones have
            another precision.
    """
    kinds = _CONVOLUTIONS[:1] if precision == "int8" else _CONVOLUTIONS
    wanted = [layer.name for layer in demanded if layer.kind in kinds and layer.precision == precision]
    if not wanted:
        raise GateError(
            f"the network holds no {precision.upper()} convolution",
            fix=f"export such a graph and build again: kdx export RUN --precision fp32,{precision}",
        )
    seen, wrong = 0, []
    for name in wanted:
        homes = [layer for layer in built if _holds(layer.name, name)]
        # Others that hold its name change the form of its input, or compute what follows it.
        homes = [layer for layer in homes if _is_convolution(layer)] or homes
        seen += bool(homes)
        wrong += [f"{name} ({layer.precision})" for layer in homes if not _has(layer, precision)][:1]
    if not seen:
        raise GateError(
            f"the engine shows none of the network's convolutions: {precision.upper()} cannot be confirmed",
            received=f"{len(built)} layers, e.g. {next((layer.name for layer in built), 'none')}",
        )
    if wrong:
        raise GateError(
            f"{len(wrong)} of {len(wanted)} convolutions are not {precision.upper()} in the engine",
            received=", ".join(wrong[:5]) + (", ..." if len(wrong) > 5 else ""),
            fix="no plan was written; build an engine of another precision",
        )


def count_layers(layers: Iterable[Layer]) -> dict[str, int]:
    """Count the networks' convolutions by precision, and all other layers together."""
    counts: dict[str, int] = {}
    for layer in layers:
        is_counted = _is_convolution(layer) and not layer.name.startswith(TAIL)
        key = f"{layer.precision} convolutions" if is_counted else "other layers"
        counts[key] = counts.get(key, 0) + 1
    return counts


def _layer(name: str, kind: str, inputs: list[str], outputs: list[str], constants: list[str]) -> Layer:
    # The other inputs of a convolution are added to its output.
    is_int8 = "int8" in constants and inputs[:1] in (["int8"], [""])
    types = {"int8"} if is_int8 else {*inputs, *outputs} - {""}
    return Layer(name=name.strip(), kind=kind.lower(), precision="+".join(sorted(types)))


def _is_convolution(layer: Layer) -> bool:
    return "conv" in layer.kind or layer.kind == "correlation"


def _has(layer: Layer, precision: str) -> bool:
    """Whether a layer computes in a precision.

    An FP16 layer may return FP32. A layer that takes int8 may still compute in FP32.
    """
    return layer.precision == "int8" if precision == "int8" else precision in layer.precision


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
    """Return the type in a format; empty where it depends on the shape, which is not set."""
    lower = text.lower()
    if lower.startswith("n/a"):
        return ""
    return next((name for key, name in _NAMES.items() if key in lower), lower.split(" ")[0])
