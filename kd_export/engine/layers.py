"""The precisions of an engine's layers, as TensorRT reports and as its network demands them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

from kdx.bundle.engine_record import EngineRecord, Layer
from kdx.bundle.graph_contract import TAIL
from kdx.errors import GateError

_CONVOLUTIONS = ("convolution", "deconvolution")
# The names of TensorRT's Python types, and those of its inspector in formats, weights and tactics.
# A name that contains another one stands before it.
_NAMES = {
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "fp16": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "fp32": "fp32",
    "uint8": "uint8",
    "int8": "int8",
}
_SOURCES = {"inspector": "by the engine's inspector", "builder": "by TensorRT's builder", "network": "by its types"}
# What stands for a type that TensorRT does not show.
_NOT_SHOWN = ("n/a", "unknown", "none")
# Parts of the names of layers that multiply by the weights of a convolution, also of one of 1 x 1
# pixels. Others that hold a convolution's name change the form of its input, or compute what
# follows it.
_MULTIPLIES = ("conv", "correlation", "gemm", "matrixmultiply")
# Each profile has its own layers; TensorRT marks those of all but the first.
_PROFILE = re.compile(r"\[profile (\d+)\]")
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

    Fused layers keep the names of what they hold, in their name or their metadata. The precision of
    a convolution is that of its operands: a layer that multiplies int8 by int8 counts as INT8,
    whatever the type of its output.
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
            constants.insert(0, _datatype(str(entry["Weights"].get("Type", ""))))
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


def require_convolutions(
    demanded: Iterable[Layer],
    built: Collection[Layer],
    precision: str,
    *,
    profiles: int = 1,
    types_decide: bool = False,
) -> list[str]:
    """Check that the convolutions that the network demands in a precision have it in the engine.

    None may be shown in another precision, in any profile. TensorRT may also hide a convolution in
    a larger layer, show it without types, or list the layers of the first profile alone. Where the
    types of the network decide, such a convolution is accepted, as long as others are shown. Where
    they do not, every convolution must be shown in each profile of which there are layers.

    In INT8, transposed convolutions may be FP32 on the same quantised values, which changes no
    result: TensorRT for RTX has no INT8 kernel for them.

    Args:
        demanded: The network's layers.
        built: The engine's layers, or the network's again if the engine's are not known.
        precision: ``fp16`` or ``int8``.
        profiles: The number of the engine's optimisation profiles.
        types_decide: Whether TensorRT has to compute in the types of the network.

    Returns:
        The convolutions that are not shown, those of later profiles with the number of the profile.

    Raises:
        GateError: No convolution is demanded in it, or the engine shows too few, or the named ones
            have another precision.
    """
    kinds = _CONVOLUTIONS[:1] if precision == "int8" else _CONVOLUTIONS
    wanted = [layer.name for layer in demanded if layer.kind in kinds and layer.precision == precision]
    if not wanted:
        raise GateError(
            f"the network holds no {precision.upper()} convolution",
            fix=f"export such a graph and build again: kdx export RUN --precision fp32,{precision}",
        )
    multiplying = [layer for layer in built if any(part in layer.kind for part in _MULTIPLIES)]
    shown = 0
    wrong: list[str] = []
    hidden: list[str] = []
    not_listed: list[str] = []
    for profile in range(profiles):
        there = [layer for layer in multiplying if profile_of(layer) == profile]
        for name in wanted:
            found = [layer.precision for layer in there if _holds(layer.name, name) and layer.precision]
            label = f"{name} [profile {profile}]" if profile else name
            shown += bool(found)
            wrong += [f"{label} ({each})" for each in found if each != precision][:1]
            if not found:
                (hidden if there or not profile else not_listed).append(label)
    total = len(wanted) * profiles - len(not_listed)
    if wrong:
        raise GateError(
            f"{len(wrong)} of {total} convolutions are not {precision.upper()} in the engine",
            received=_some(wrong),
            fix="no plan was written; build an engine of another precision",
        )
    if not shown:
        raise GateError(
            f"the engine shows none of the network's convolutions: {precision.upper()} cannot be confirmed",
            received=f"{len(built)} layers, e.g. {next((layer.name for layer in built), 'none')}",
        )
    if hidden and not types_decide:
        raise GateError(
            f"{len(hidden)} of {total} convolutions are not shown in the engine, and TensorRT may compute them in "
            f"another precision: {precision.upper()} cannot be confirmed",
            received=_some(hidden),
            fix="no plan was written; build an engine of another precision",
        )
    return hidden + not_listed


def profile_of(layer: Layer) -> int:
    """Return the optimisation profile of a layer: the first one unless its name says otherwise."""
    found = _PROFILE.search(layer.name)
    return int(found[1]) if found else 0


def count_layers(layers: Iterable[Layer]) -> dict[str, int]:
    """Count the networks' convolutions by precision, and all other layers together."""
    counts: dict[str, int] = {}
    for layer in layers:
        is_counted = _is_convolution(layer) and not layer.name.startswith(TAIL)
        key = f"{layer.precision or 'untyped'} convolutions" if is_counted else "other layers"
        counts[key] = counts.get(key, 0) + 1
    return counts


def describe_layers(record: EngineRecord) -> str:
    """Return an engine's layers in words: counts, their source, and what they do not show."""
    counts = ", ".join(f"{count} {name}" for name, count in sorted(count_layers(record.layers).items()))
    text = f"{counts} ({_SOURCES[record.layers_from]})"
    if not record.not_shown:
        return text
    return f"{text}; {len(record.not_shown)} convolutions are not shown: {_some(record.not_shown)}"


def _layer(name: str, kind: str, inputs: list[str], outputs: list[str], constants: list[str]) -> Layer:
    kind = kind.lower()
    known = {*inputs, *outputs} - {""}
    if any(part in kind for part in _MULTIPLIES):
        # The other inputs of a convolution are added to its output, whose type says nothing of the
        # product. The first constant is the kernel; the others scale or shift in FP32.
        source, kernel = next(iter(inputs), ""), "int8" if "int8" in constants else next(iter(constants), "")
        if kernel or source != "int8":
            known = {kernel, source} - {""}
        # Where no kernel is listed, int8 may be dequantised first, unless the output is int8 too.
    return Layer(name=name.strip(), kind=kind, precision="+".join(sorted(known)))


def _is_convolution(layer: Layer) -> bool:
    return "conv" in layer.kind or layer.kind == "correlation"


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


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
    if lower.startswith(_NOT_SHOWN):
        return ""
    return next((name for key, name in _NAMES.items() if key in lower), lower.split(" ")[0])
