"""The INT8 graph, with explicit QuantizeLinear and DequantizeLinear.

Weights are int8 per output channel and symmetric, activations uint8 per tensor. See
:mod:`kd_export.graph.int8` for what is computed, and :mod:`kd_export.precision.int8_plan` for which
nodes are quantised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from kd_export.graph.int8 import Int8Plan, Step, fake_quantize_parameters
from kd_export.precision.activations import CONVOLUTIONS, DEQUANTIZE, QUANTIZE, activations
from kd_export.precision.int8_plan import plan_int8
from kdx.bundle.graph_contract import PAIR
from kdx.errors import GateError


def quantize(model: ModelProto, images: NDArray[np.uint8], *, keep: Collection[str] = ()) -> ModelProto:
    """Return the INT8 graph.

    Args:
        model: The FP32 graph, its nodes named by module.
        images: uint8 ``(K, H, W, C)``, real good images that the student was trained on: their
            largest activations set the scales. They run one at a time.
        keep: Nodes of the networks that stay FP32.

    Raises:
        GateError: Nothing can be quantised, a value is not a number, or the result is not a valid
            graph.
    """
    return put_back(quantize_by(model, plan_int8(model, images)), model, keep)


def quantize_by(model: ModelProto, plan: Int8Plan) -> ModelProto:
    """Return the INT8 graph of a plan.

    Raises:
        GateError: The graph has no such node, or the result is not a valid graph.
    """
    missing = plan.nodes.keys() - {node.name for node in model.graph.node}
    if missing:
        raise GateError(
            f"the graph has no node '{min(missing)}', which is quantised",
            fix="install the versions of kdx and timm that trained it, see 'versions' in run.json",
        )
    result = ModelProto()
    result.CopyFrom(model)
    writer = _Writer(result.graph)
    for node in model.graph.node:
        writer.add(node, plan.nodes.get(node.name, ()))
    del result.graph.node[:]
    result.graph.node.extend(writer.nodes)
    return put_back(result, model, ())


def put_back(quantised: ModelProto, model: ModelProto, keep: Collection[str]) -> ModelProto:
    """Return an INT8 graph with some nodes in FP32 again, on unquantised inputs.

    Args:
        quantised: The graph that :func:`quantize` returned.
        model: The FP32 graph that it was made from.
        keep: Names of nodes.

    Raises:
        GateError: The result is not a valid graph.
    """
    result = ModelProto()
    result.CopyFrom(quantised)
    graph = result.graph
    originals = {node.name: node for node in model.graph.node}
    for node in graph.node:
        if node.name in keep and node.name in originals:
            node.input[:] = originals[node.name].input
    _drop_unused(graph, model.graph)
    try:
        onnx.checker.check_model(result, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"the INT8 graph is not valid: {error}", fix="please report this backbone") from error
    return result


def quantised_nodes(model: ModelProto) -> list[str]:
    """Return the names of the nodes that take quantised values, in the graph's order."""
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == DEQUANTIZE}
    return [
        node.name
        for node in model.graph.node
        if node.op_type not in {QUANTIZE, DEQUANTIZE} and dequantised.intersection(node.input)
    ]


class _Writer:
    """Writes the nodes of an INT8 graph, and adds its constants to a graph.

    Args:
        graph: The graph with the FP32 constants.

    Attributes:
        nodes: The nodes so far.
    """

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._dequantised: dict[tuple[str, Step], str] = {}
        self._labels: Counter[str] = Counter()
        self.nodes: list[NodeProto] = []

    def add(self, node: NodeProto, steps: Collection[Step]) -> None:
        """Write a node, on inputs that are quantised by these steps; none for FP32."""
        copy = NodeProto()
        copy.CopyFrom(node)
        for index, (name, step) in enumerate(zip(activations(node), steps, strict=False)):
            copy.input[index] = self._activation(name, step)
        if steps and node.op_type in CONVOLUTIONS:
            copy.input[1:] = self._parameters(node, *steps)
        self.nodes.append(copy)

    def _activation(self, name: str, step: Step) -> str:
        """Return the dequantised values of a tensor; what takes the same ones shares the nodes."""
        if (name, step) not in self._dequantised:
            label = self._label(name)
            constants = [
                self._constant(f"{label}_scale", np.array(step.scale, np.float32)),
                self._constant(f"{label}_zero_point", np.array(step.zero, step.type)),
            ]
            quantised = self._node(QUANTIZE, label, [name, *constants])
            self._dequantised[name, step] = self._node(DEQUANTIZE, label, [quantised, *constants])
        return self._dequantised[name, step]

    def _parameters(self, node: NodeProto, step: Step) -> list[str]:
        """Return the dequantised weights of a convolution, and its rounded bias if it has one."""
        weight, *biases = (torch.tensor(self._constants[name]) for name in node.input[1:])
        groups = next((each.i for each in node.attribute if each.name == "group"), 1)
        axis = 0 if node.op_type == "Conv" else 1
        values = fake_quantize_parameters(
            weight, biases[0] if biases else None, step, groups=groups, is_transposed=axis == 1
        )
        by_axis = values.steps.reshape([-1 if each == axis else 1 for each in range(weight.ndim)])
        label = self._label(node.input[1])
        constants = [
            self._constant(f"{label}_quantized", (values.weight / by_axis).round().to(torch.int8).numpy()),
            self._constant(f"{label}_scale", values.steps.numpy()),
            self._constant(f"{label}_zero_point", np.zeros(len(values.steps), np.int8)),
        ]
        found = [self._node(DEQUANTIZE, label, constants, axis=axis)]
        if values.bias is not None:
            # FP32: TensorRT dequantises no int32, and ONNX Runtime makes integers of it itself.
            found.append(self._constant(f"{self._label(node.input[2])}_rounded", values.bias.numpy()))
        return found

    def _label(self, name: str) -> str:
        """Return a name for what quantises a tensor, another one for each step that it has."""
        self._labels[name] += 1
        return name if self._labels[name] == 1 else f"{name}.{self._labels[name]}"

    def _node(self, kind: str, name: str, inputs: list[str], axis: int | None = None) -> str:
        output = f"{name}_{kind}_Output"
        # make_node leaves out attributes that are None.
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{PAIR}/{kind}.{output}", axis=axis))
        return output

    def _constant(self, name: str, values: NDArray[np.generic]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name


def _drop_unused(graph: GraphProto, original: GraphProto) -> None:
    """Remove nodes that lead to no output, and keep the constants that are used."""
    wanted = {value.name for value in graph.output}
    nodes: list[NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            nodes.append(node)
    kept = [NodeProto.FromString(node.SerializeToString()) for node in reversed(nodes)]
    constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in (*original.initializer, *graph.initializer)}
    tensors = [TensorProto.FromString(constants[name].SerializeToString()) for name in constants if name in wanted]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.initializer[:]
    graph.initializer.extend(tensors)
