"""Cuts graphs into a part that several of them share and a part of each graph alone.

Two operations compute the same if their types, their attributes and all their inputs are equal,
including the bytes of constants. A digest of each operation over these, and over the digests of its
inputs, proves it, whatever the names and the order of the operations. Graphs of one teacher and
different students share the preprocessing, the teacher, and the part of the tail that depends on
the teacher's features alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from kdx.bundle.graph_contract import TEACHER
from kdx.errors import BackendError

# The operations of a DequantizeLinear and the second half of a QuantizeLinear, whose first is a
# FakeQuantize.
_DEQUANTISING = frozenset({"Convert", "Subtract", "Multiply", "Reshape"})
# Operations that contain graphs: no graph of kdx has any, and their attributes would not identify
# them.
_WITH_BODY = frozenset({"If", "Loop", "TensorIterator"})


class TensorId(NamedTuple):
    """An output of an operation, identified by the operation's digest and the output's index."""

    digest: bytes
    output: int

    @property
    def name(self) -> str:
        """The tensor's name as an output of one model and an input of another."""
        return f"{self.digest.hex()}:{self.output}"


@dataclass(frozen=True)
class _Operation:
    """An operation.

    Attributes:
        kind: The operation's type.
        digest: The digest of what it computes.
        inputs: For each input, the position of the operation that computes it, and the output's
            index.
        may_be_cut: For each output, whether it is a feature: FP32, computed from the image, and not
            between QuantizeLinear and DequantizeLinear.
    """

    kind: str
    digest: bytes
    inputs: tuple[tuple[int, int], ...]
    may_be_cut: tuple[bool, ...]


class Outline:
    """An outline of what a graph computes, without its weights.

    Args:
        model: OpenVINO's model, of static shapes.

    Attributes:
        digests: The digests of all operations, which do not depend on the batch size.
        teacher: The names of the teacher's operations by digest, each after its inputs.

    Raises:
        BackendError: The graph has branches or loops.
    """

    def __init__(self, model: Any) -> None:
        self._steps: list[_Operation] = []
        self.teacher: dict[bytes, str] = {}
        positions: dict[str, int] = {}
        from_image: set[int] = set()
        quantised: set[int] = set()
        for position, op in enumerate(model.get_ordered_ops()):
            kind, name = op.get_type_name(), op.get_friendly_name()
            sources = [each.get_source_output() for each in op.inputs()]
            inputs = tuple((positions[each.get_node().get_name()], each.get_index()) for each in sources)
            if kind == "Parameter" or any(source in from_image for source, _ in inputs):
                from_image.add(position)
            if kind == "FakeQuantize" or (kind in _DEQUANTISING and inputs[0][0] in quantised):
                quantised.add(position)
            is_feature = kind != "Parameter" and position in from_image and position not in quantised
            may_be_cut = tuple(is_feature and each.get_element_type() == ov.Type.f32 for each in op.outputs())
            digest = _digest_of(op, kind, [TensorId(self._steps[source].digest, index) for source, index in inputs])
            self._steps.append(_Operation(kind, digest, inputs, may_be_cut))
            positions[op.get_name()] = position
            if kind != "Constant" and name.startswith(TEACHER):
                self.teacher[digest] = name
        self.digests = frozenset(step.digest for step in self._steps)

    def cuts(self, shared: Collection[bytes]) -> list[TensorId]:
        """Return the tensors at which the graph is cut, in its order; see :meth:`crossings`."""
        return sorted({tensor for _, _, tensor in self.crossings(shared)}, key=self.position_of)

    def crossings(self, shared: Collection[bytes]) -> Iterator[tuple[int, int, TensorId]]:
        """Yield where the graph's own operations use results of shared ones.

        Each item is the operation's position, the number of its input, and the tensor.

        If a tensor is quantised after a cut, each side quantises it. The last operations always
        belong to the graph's own part, because a model cannot have an input as its output.

        Raises:
            BackendError: An operation that is not shared uses the image itself.
        """
        waiting = [position for position, step in enumerate(self._steps) if step.kind == "Result"]
        last = {source for position in waiting for source, _ in self._steps[position].inputs}
        seen = set(waiting)
        while waiting:
            position = waiting.pop()
            if self._steps[position].kind == "Parameter":
                raise BackendError("the graph cannot be split: not only its teacher uses the image itself")
            for number, (source, index) in enumerate(self._steps[position].inputs):
                step = self._steps[source]
                if step.digest in shared and step.may_be_cut[index] and source not in last:
                    yield position, number, TensorId(step.digest, index)
                elif source not in seen:
                    seen.add(source)
                    waiting.append(source)

    def position_of(self, tensor: TensorId) -> tuple[int, int]:
        """Return the position of the first operation that computes a tensor, and the output."""
        return next(i for i, step in enumerate(self._steps) if step.digest == tensor.digest), tensor.output


def shared_part(model: Any, tensors: Sequence[TensorId]) -> Any:
    """Return the part of a model from the image to some tensors, which become its outputs."""
    outline, operations = Outline(model), model.get_ordered_ops()
    results = []
    for tensor in tensors:
        position, index = outline.position_of(tensor)
        output = operations[position].output(index)
        output.add_names({tensor.name})
        results.append(ops.result(output))
    return ov.Model(results, model.get_parameters(), "teacher")


def own_part(model: Any, shared: Collection[bytes]) -> Any:
    """Return the part of a model after the shared part; its inputs are the cut tensors.

    Args:
        model: OpenVINO's model, which is changed.
        shared: The digests of the operations of the shared part.
    """
    outline, operations = Outline(model), model.get_ordered_ops()
    parameters: dict[TensorId, Any] = {}
    for position, number, tensor in list(outline.crossings(shared)):
        taken = operations[position].input(number)
        if tensor not in parameters:
            source = taken.get_source_output()
            parameters[tensor] = ops.parameter(source.get_shape(), source.get_element_type())
            parameters[tensor].output(0).set_names({tensor.name})
        taken.replace_source_output(parameters[tensor].output(0))
    part = ov.Model(model.get_results(), list(parameters.values()), "student")
    part.validate_nodes_and_infer_types()
    return part


def _digest_of(op: Any, kind: str, inputs: Sequence[TensorId]) -> bytes:
    if kind in _WITH_BODY:
        raise BackendError(
            f"the graph cannot be split: it contains the operation {kind}", fix="load its bundle by itself"
        )
    digest = hashlib.sha256(kind.encode())
    if kind == "Constant":
        digest.update(repr((op.get_element_type(), tuple(op.get_output_shape(0)))).encode())
        digest.update(np.ascontiguousarray(op.data).data)
    elif kind == "Parameter":
        digest.update(repr((op.get_element_type(), tuple(op.get_output_shape(0))[1:])).encode())
    else:
        digest.update(repr(sorted(op.get_attributes().items())).encode())
    for tensor in inputs:
        digest.update(tensor.name.encode())
    return digest.digest()
