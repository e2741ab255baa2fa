"""The FP16 graph, with types that make a strongly typed TensorRT run exactly these precisions.

The networks' nodes become FP16, weights included. Everything else stays FP32: the preprocessing,
everything from the taps on, and in the networks whatever FP16 cannot hold. What that is, is decided
from the weights themselves and from the values on real images, for CPU runtimes compute FP16 graphs
in FP32 and would show no fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from kdx.bundle.graph_contract import PAIR, TEACHER
from kdx.bundle.variants import FP16_MAX, KeptNode
from kdx.errors import GateError

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})

# Sums over a whole map or over channels, and roots: an FP16 accumulator overflows, and a small sum
# of squares is zero.
_FP32_OPS = frozenset(
    {
        "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum",
        "ReduceSumSquare", "GlobalAveragePool", "InstanceNormalization", "LayerNormalization", "Exp", "Log", "Pow",
        "Softmax", "Sqrt",
    }
)  # fmt: skip
# What FP32 divides by: where it is small, FP16 makes 0 of it, and a zero vector's quotient is NaN.
_NORMS = frozenset({"Reciprocal", "ReduceL2", "Sqrt"})
# Operations between a norm and the division by it.
_OF_A_NORM = frozenset({"Clip", "Expand", "Max"})
# A teacher with other input statistics gets the image's difference: that is preprocessing, wherever
# it is computed.
_PREPROCESSING = re.compile(rf"{re.escape(TEACHER)}\.adapt\b")
# An activation beyond this on the golden images stays FP32: another image may be twice as large.
ACTIVATION_LIMIT = FP16_MAX / 2
# Rounding to FP16 loses 2^-11 of a value, relatively, down to its smallest normal number. Below,
# weights lose more, up to all of themselves; pretrained networks have many such, whole dead
# channels among them (tf_efficientnet_lite0: weights below 3e-8 in most of its convolutions). They
# matter where what they lose can reach the rounding of the layer's output.
_ROUNDING = 2.0**-11
_SMALLEST_NORMAL = 2.0**-14


@dataclass
class HalfPlan:
    """The nodes that become FP16.

    Attributes:
        half: Names of these nodes.
        kept: Nodes of the networks that stay FP32, and why.
        flushed: Number of weights that become zero, by node.
    """

    half: set[str] = field(default_factory=set)
    kept: list[KeptNode] = field(default_factory=list)
    flushed: dict[str, int] = field(default_factory=dict)


def network_tensors(model: ModelProto) -> list[str]:
    """Return the FP32 values that the networks' nodes take and compute, except constants."""
    activations = _float_tensors(model) - {tensor.name for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if _in_networks(node)]
    return sorted({name for node in nodes for name in (*node.input, *node.output)} & activations)


def plan_half(model: ModelProto, ranges: Mapping[str, float]) -> HalfPlan:
    """Decide which nodes of an FP32 graph become FP16.

    Args:
        model: The FP32 graph, its nodes named by module.
        ranges: Largest absolute value of each of :func:`network_tensors`, on real images.
    """
    plan = HalfPlan()
    floats = _float_tensors(model)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    rooted = {node.input[0] for node in model.graph.node if node.op_type in {"Reciprocal", "Sqrt"}}
    for node in model.graph.node:
        if not _in_networks(node) or not floats.intersection((*node.input, *node.output)):
            continue
        reason = (
            _reason_of_kind(node, makers, rooted)
            or _reason_of_range(node, ranges)
            or _reason_of_weights(node, weights, ranges)
        )
        if reason:
            plan.kept.append(KeptNode(node=node.name, reason=reason))
            continue
        plan.half.add(node.name)
        lost = sum(_flushed(numpy_helper.to_array(weights[name])) for name in node.input if name in weights)
        if lost:
            plan.flushed[node.name] = lost
    return plan


def to_half(model: ModelProto, plan: HalfPlan) -> ModelProto:
    """Return the graph with the planned nodes in FP16 and casts where the precisions meet.

    Raises:
        GateError: The result is not a valid graph, or types do not meet.
    """
    half = ModelProto()
    half.CopyFrom(model)
    _Rewriter(half, plan.half).run()
    try:
        onnx.checker.check_model(half, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"the FP16 graph is not valid: {error}", fix="please report this backbone") from error
    return half


class _Rewriter:
    """Retypes nodes of one graph, in place."""

    def __init__(self, model: ModelProto, half: set[str]) -> None:
        self.model = model
        self.graph = model.graph
        self.half = half
        self.floats = _float_tensors(model)
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.half_weights: dict[str, TensorProto] = {}
        self.half_tensors = {name for node in self.graph.node if node.name in half for name in node.output}
        self.half_tensors &= self.floats
        self.casts: dict[str, str] = {}

    def run(self) -> None:
        nodes: list[NodeProto] = []
        for node in self.graph.node:
            is_half = node.name in self.half
            for index, name in enumerate(node.input):
                if name in self.floats and is_half != (name in self.half_tensors):
                    if is_half and name in self.weights:
                        node.input[index] = self._half_weight(name)
                    else:
                        node.input[index] = self._cast(name, nodes, to_half=is_half)
            nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        del self.graph.value_info[:]
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend([*kept, *self.half_weights.values()])

    def _half_weight(self, name: str) -> str:
        if name not in self.half_weights:
            values = numpy_helper.to_array(self.weights[name]).astype(np.float16)
            self.half_weights[name] = numpy_helper.from_array(values, f"{name}.fp16")
        return f"{name}.fp16"

    def _cast(self, name: str, nodes: list[NodeProto], *, to_half: bool) -> str:
        """Return a tensor in the other precision; one cast serves all who need it."""
        if name not in self.casts:
            suffix, kind = ("fp16", TensorProto.FLOAT16) if to_half else ("fp32", TensorProto.FLOAT)
            cast = f"{name}.{suffix}"
            # It is named like the FP32 side, at whose border it lies.
            nodes.append(onnx.helper.make_node("Cast", [name], [cast], name=f"{PAIR}/Cast.{cast}", to=kind))
            self.casts[name] = cast
        return self.casts[name]


def half_convolutions(model: ModelProto) -> tuple[list[str], list[str]]:
    """Return the names of the networks' convolutions that are FP16, and of those that are not."""
    types = _element_types(model)
    half: list[str] = []
    others: list[str] = []
    for node in model.graph.node:
        if node.op_type in CONVOLUTIONS and _in_networks(node):
            typed = all(types[name] == TensorProto.FLOAT16 for name in (*node.input, *node.output) if name)
            (half if typed else others).append(node.name)
    return half, others


def _in_networks(node: NodeProto) -> bool:
    return node.name.startswith(PAIR) and not _PREPROCESSING.match(node.name)


def _reason_of_kind(node: NodeProto, makers: Mapping[str, NodeProto], rooted: Set[str]) -> str:
    if node.op_type in _FP32_OPS:
        return f"{node.op_type} is kept in FP32"
    if node.op_type == "Mul" and len(set(node.input)) == 1:
        return "a square overflows FP16 above 256"
    if node.op_type not in CONVOLUTIONS and not rooted.isdisjoint(node.output):
        return "its root or reciprocal is taken"
    if node.op_type in {"Mul", "Div"} and any(_is_norm(name, makers) for name in node.input):
        return "divides by a norm"
    if node.op_type in _OF_A_NORM and _is_norm(node.input[0], makers):
        return "bounds a norm"
    return ""


def _is_norm(name: str, makers: Mapping[str, NodeProto]) -> bool:
    if name not in makers:
        return False
    maker = makers[name]
    return maker.op_type in _NORMS or (maker.op_type in _OF_A_NORM and _is_norm(maker.input[0], makers))


def _reason_of_range(node: NodeProto, ranges: Mapping[str, float]) -> str:
    for name in (*node.input, *node.output):
        value = ranges.get(name, 0.0)
        if not value <= ACTIVATION_LIMIT:  # NaN included
            return f"a value of {value:.4g} on the golden images; FP16 ends at {FP16_MAX:g}"
    return ""


def _reason_of_weights(node: NodeProto, weights: Mapping[str, TensorProto], ranges: Mapping[str, float]) -> str:
    for name in node.input:
        if name not in weights or weights[name].data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weights[name])
        if (np.abs(values) > FP16_MAX).any():
            return f"a weight of {np.abs(values).max():.4g}; FP16 ends at {FP16_MAX:g}"
        if node.op_type in CONVOLUTIONS and values.ndim == 4:
            lost = _largest_loss(node, values) * ranges[node.input[0]]
            if lost > _ROUNDING * ranges[node.output[0]]:
                return f"weights too small for FP16 can lose {lost:.2g} of outputs up to {ranges[node.output[0]]:.4g}"
    return ""


def _largest_loss(node: NodeProto, values: NDArray[np.float32]) -> float:
    """Return how much of an output channel small weights can lose at most, for inputs up to 1.

    A transposed convolution has its output channels, per group, second.
    """
    axis = 0 if node.op_type == "Conv" else 1
    lost = np.where(np.abs(values) < _SMALLEST_NORMAL, np.abs(values - values.astype(np.float16)), 0.0)
    return float(np.moveaxis(lost, axis, 0).reshape(values.shape[axis], -1).sum(axis=1).max())


def _flushed(values: NDArray[np.float32]) -> int:
    if values.dtype != np.float32:
        return 0
    return int(((values != 0) & (values.astype(np.float16) == 0)).sum())


def _float_tensors(model: ModelProto) -> set[str]:
    return {name for name, kind in _element_types(model).items() if kind == TensorProto.FLOAT}


def _element_types(model: ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    return dict(_typed_values(inferred))


def _typed_values(model: ModelProto) -> Iterator[tuple[str, int]]:
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name, value.type.tensor_type.elem_type
    for tensor in graph.initializer:
        yield tensor.name, tensor.data_type
