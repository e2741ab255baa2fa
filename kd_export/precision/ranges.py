"""The ranges of values inside a graph, on real images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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

# Of images with at least twice as many rows and columns, not all are compared.
_ENOUGH_ROWS = 256


def measure_ranges(model: ModelProto, tensors: Collection[str], images: NDArray[np.uint8]) -> dict[str, float]:
    """Return the largest absolute value of each of a graph's FP32 tensors.

    The maxima are taken inside the graph: outputs of every layer would be large.

    Args:
        model: The FP32 graph.
        tensors: Names of values that nodes compute.
        images: uint8 ``(K, H, W, C)``; they run one at a time.
    """
    names = sorted(tensors)
    probe = ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    del graph.output[:]
    for index, name in enumerate(names):
        magnitude, largest = f"probe.abs.{index}", f"probe.max.{index}"
        graph.node.append(helper.make_node("Abs", [name], [magnitude]))
        graph.node.append(helper.make_node("ReduceMax", [magnitude], [largest], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, []))
    session = open_session(probe.SerializeToString(), "the graph that measures ranges")
    found = np.zeros(len(names))
    for image in images:
        # NaN must win, so that nothing that is not finite looks small.
        found = np.maximum(found, np.array(session.run(None, {graph.input[0].name: image[None]}), np.float64))
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
        candidates: The steps of each tensor ``(1, C, h, w)``, by its name; they differ in their
            scale alone.
        images: uint8 ``(K, H, W, C)``; they run one at a time. Of large ones, only some rows and
            columns of a tensor are compared, at even distances: all would take much memory.
        most: How many times the least error of all steps the first one may have.
    """
    probe = ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    del graph.output[:]

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"probe.{len(graph.node)}"
        graph.node.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(value: Any) -> str:
        name = f"probe.constant.{len(graph.initializer)}"
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    channels, places = constant(np.array([1], np.int64)), constant(np.array([1, 2], np.int64))
    little, names = constant(np.float32(1e-12)), sorted(candidates)
    apart = max(1, min(images.shape[1:3]) // _ENOUGH_ROWS)
    every = [constant(np.array(each, np.int64)) for each in ([0, 0], [2**31, 2**31], [2, 3], [apart, apart])]
    for name in names:
        first, steps = candidates[name][0], [step.scale for step in candidates[name]]
        values = add("Slice", name, *every)
        scales = constant(np.array(steps, np.float32).reshape(-1, 1, 1, 1))
        limits = (constant(np.float32(limit - first.zero)) for limit in first.limits)
        integers = add("Clip", add("Round", add("Div", values, scales)), *limits)
        error = add("Sub", add("Mul", integers, scales), values)
        # A position of zeros has no error.
        squares = add("Add", add("ReduceSumSquare", values, channels, keepdims=0), little)
        relative = add("Div", add("ReduceSumSquare", error, channels, keepdims=0), squares)
        mean = add("ReduceMean", relative, places, keepdims=0)
        graph.output.append(helper.make_tensor_value_info(mean, TensorProto.FLOAT, [len(steps)]))
    session = open_session(probe.SerializeToString(), "the graph that compares steps")
    given = graph.input[0].name
    errors = [sum(each) for each in zip(*(session.run(None, {given: image[None]}) for image in images), strict=True)]
    found = {}
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
