"""The ranges of values inside a graph, on real images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from kd_export.graph import PairSpec
from kd_export.graph.int8 import Step
from kdx.bundle.graph_contract import TAIL, distance_prefix
from kdx.bundle.variants import FP16_MAX, TapRange
from kdx.errors import GateError
from kdx.runtime.onnxruntime.session import open_session

# Of tensors with at least twice as many rows or columns, not all are compared.
_ENOUGH_ROWS = 256


class _Probe:
    """A graph with other outputs: what is computed from values inside it.

    Args:
        model: The graph, which stays as it is.
    """

    def __init__(self, model: ModelProto) -> None:
        self._model = ModelProto()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        del self._graph.output[:]

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        output = f"probe.{len(self._graph.node)}"
        self._graph.node.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: Any) -> str:
        """Add a constant; return its name."""
        name = f"probe.constant.{len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def give(self, name: str, kind: int, shape: Sequence[int] | None) -> None:
        """Make a value an output of the graph."""
        self._graph.output.append(helper.make_tensor_value_info(name, kind, shape))

    def run(self, images: NDArray[np.uint8], what: str) -> Iterator[list[Any]]:
        """Yield the outputs for each image; ``what`` is what errors call the graph."""
        session = open_session(self._model.SerializeToString(), what)
        for image in images:
            yield session.run(None, {self._graph.input[0].name: image[None]})


def _shapes(model: ModelProto, tensors: Collection[str], image: NDArray[np.uint8]) -> dict[str, list[int]]:
    """Return the shapes of tensors for one image ``(1, H, W, C)``."""
    probe, names = _Probe(model), sorted(tensors)
    for name in names:
        probe.give(probe.add("Shape", name), TensorProto.INT64, None)
    (found,) = probe.run(image, "the graph that measures shapes")
    return dict(zip(names, (shape.tolist() for shape in found), strict=True))


def measure_ranges(model: ModelProto, tensors: Collection[str], images: NDArray[np.uint8]) -> dict[str, float]:
    """Return the largest absolute value of each of a graph's FP32 tensors.

    The maxima are taken inside the graph: outputs of every layer would be large.

    Args:
        model: The FP32 graph.
        tensors: Names of values that nodes compute.
        images: uint8 ``(K, H, W, C)``; they run one at a time.
    """
    names, probe = sorted(tensors), _Probe(model)
    for name in names:
        # ONNX Runtime's ReduceMax ignores NaN, and nothing that is not finite may look small.
        is_nan = probe.add("Cast", probe.add("IsNaN", name), to=TensorProto.FLOAT)
        for values in (probe.add("Abs", name), is_nan):
            probe.give(probe.add("ReduceMax", values, keepdims=0), TensorProto.FLOAT, [])
    found = np.zeros(len(names))
    for each in probe.run(images, "the graph that measures ranges"):
        largest, is_nan = np.array(each, np.float64).reshape(-1, 2).T
        found = np.maximum(found, np.where(is_nan > 0, np.nan, largest))
    return dict(zip(names, found.tolist(), strict=True))


def accurate_steps(
    model: ModelProto, candidates: Mapping[str, Sequence[Step]], images: NDArray[np.uint8], *, most: float = 1.0
) -> dict[str, Step]:
    """Return, for each tensor, its first step if it is accurate on images, else the most accurate.

    The error is that of rounding and clipping: at each position, the squared error of all channels
    over the sum of their squares, and of that the mean over positions. What is compared in the end
    are directions of features at positions. A few very large values would decide a plain sum.

    Args:
        model: The FP32 graph.
        candidates: The steps of each tensor, by its name; they differ in their scale alone. A
            tensor that is not ``(1, C, h, w)``, as of a transformer's block, keeps its first step.
        images: uint8 ``(K, H, W, C)``; they run one at a time. Of a large tensor, only some rows
            and columns are compared, at even distances: all would take much memory.
        most: How many times the least error of all steps the first one may have.
    """
    probe = _Probe(model)
    add, constant = probe.add, probe.constant
    shapes = _shapes(model, candidates, images[:1])
    names = sorted(name for name, shape in shapes.items() if len(shape) == 4)
    channels, places = constant(np.array([1], np.int64)), constant(np.array([1, 2], np.int64))
    little, beyond, axes = constant(np.float32(1e-12)), constant(np.full(2, 2**31)), constant(np.array([2, 3]))
    for name in names:
        first, steps = candidates[name][0], [step.scale for step in candidates[name]]
        apart = [max(1, side // _ENOUGH_ROWS) for side in shapes[name][2:]]
        # Not from the border, where convolutions see what they pad with.
        begin = constant(np.array([each // 2 for each in apart], np.int64))
        values = add("Slice", name, begin, beyond, axes, constant(np.array(apart, np.int64)))
        scales = constant(np.array(steps, np.float32).reshape(-1, 1, 1, 1))
        limits = (constant(np.float32(limit - first.zero)) for limit in first.limits)
        integers = add("Clip", add("Round", add("Div", values, scales)), *limits)
        error = add("Sub", add("Mul", integers, scales), values)
        # A position of zeros has no error.
        squares = add("Add", add("ReduceSumSquare", values, channels, keepdims=0), little)
        relative = add("Div", add("ReduceSumSquare", error, channels, keepdims=0), squares)
        mean = add("ReduceMean", relative, places, keepdims=0)
        probe.give(mean, TensorProto.FLOAT, [len(steps)])
    errors = [sum(each) for each in zip(*probe.run(images, "the graph that compares steps"), strict=True)]
    found = {name: steps[0] for name, steps in candidates.items()}
    for name, error in zip(names, errors, strict=True):
        best = 0 if error[0] <= most * error.min() else int(np.argmin(error))
        found[name] = candidates[name][best]
    return found


def tap_ranges(model: ModelProto, spec: PairSpec, ranges: dict[str, float]) -> list[TapRange]:
    """Return the range report: of each comparison, the two features that its distance takes."""
    report = []
    for map_index, part in enumerate(spec.maps):
        for tap_index, tap in enumerate(part.taps):
            teacher, student = (
                ranges[name] for name in _features_of(model, distance_prefix(map_index, tap_index), ranges)
            )
            largest = max(teacher, student)
            headroom = FP16_MAX / largest if largest > 0 else float("inf")
            report.append(TapRange(tap=tap.name, teacher=teacher, student=student, headroom=headroom))
    return report


def _features_of(model: ModelProto, module: str, known: Collection[str]) -> tuple[str, str]:
    """Return the teacher's and the student's feature that a distance module compares.

    They meet in the module's only operation whose two inputs each lead back to one feature; the
    first is the teacher's. Operations on a teacher's feature that two modules share belong to the
    first of them, so names do not suffice.
    """
    sources: dict[str, frozenset[str]] = {name: frozenset({name}) for name in known}
    for node in model.graph.node:
        if node.name.startswith(TAIL):
            sides = [sources.get(name, frozenset()) for name in node.input]
            if node.name.startswith(module) and len(sides) == 2 and all(len(side) == 1 for side in sides):
                (teacher,), (student,) = sides
                if teacher != student:
                    return teacher, student
            for name in node.output:
                sources[name] = frozenset().union(*sides)
    raise GateError(f"'{module}' of the graph compares no two features", fix="please report this backbone")
