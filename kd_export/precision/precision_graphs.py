"""Makes the graphs of other precisions, and judges those that could decide differently."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from kd_export.graph import FusedDetector, PairSpec
from kd_export.onnx.onnx_export import export_onnx
from kd_export.precision.activations import CONVOLUTIONS
from kd_export.precision.exact_answers import ExactAnswers
from kd_export.precision.fp16 import half_convolutions, network_tensors, plan_half, to_half
from kd_export.precision.gate import Gate, reason_of
from kd_export.precision.quantize import quantised_nodes, quantize, quantize_by
from kd_export.precision.ranges import measure_ranges, tap_ranges
from kd_export.precision.student_gate import judge_students
from kdx.bundle.graph_contract import PAIR
from kdx.bundle.manifest import GRAPH
from kdx.bundle.variants import Judged, KeptNode, RangeReport, Variant, graph_file
from kdx.errors import GateError
from kdx.progress import Progress
from kdx.runtime.backend import Outputs
from kdx.runtime.backend_table import find_backend
from kdx.verification.judge import Judgement
from kdx.verification.tolerances import LIMITS, student_tolerances


def write_half(folder: Path, spec: PairSpec, images: NDArray[np.uint8]) -> Variant:
    """Write the FP16 graph of a bundle under construction, and return its range report."""
    model = onnx.load(folder / GRAPH)
    ranges = measure_ranges(model, network_tensors(model), images)
    plan = plan_half(model, ranges)
    half = to_half(model, plan)
    convolutions, _ = half_convolutions(half)
    if not convolutions:
        reason = plan.kept[0].reason
        raise GateError("no convolution can be FP16", received=reason, fix="export without 'fp16' in `precisions`")
    onnx.save_model(half, str(folder / graph_file("fp16")))
    outputs = {node.output[0]: node.name for node in model.graph.node if node.name in plan.half}
    largest = max(outputs, key=lambda name: ranges.get(name, 0.0))
    return Variant(
        file=graph_file("fp16"),
        convolutions=len(convolutions),
        kept=plan.kept,
        ranges=RangeReport(
            largest=outputs[largest],
            largest_value=ranges[largest],
            flushed=plan.flushed,
            taps=tap_ranges(model, spec, ranges),
        ),
    )


def judge_bf16(exact: ExactAnswers) -> tuple[Variant | None, str]:
    """Judge the FP32 graph of a bundle under construction as OpenVINO computes it in BF16.

    Returns:
        The variant, or None and the reason.
    """
    if not find_backend("openvino").offers("bf16"):
        return None, "it is judged where it runs: in OpenVINO, on a CPU with AVX-512 BF16 or AMX; not on this machine"
    report = Gate(exact, LIMITS["bf16"]).pass_bf16()
    if not report.passed:
        return None, report.reason
    return Variant(
        file=graph_file("bf16"),
        convolutions=sum(n.op_type in CONVOLUTIONS and n.name.startswith(PAIR) for n in exact.model.graph.node),
        kept=[],
        judged=_judged(report.judgements),
    ), ""


def write_int8(
    folder: Path, exact: ExactAnswers, images: NDArray[np.uint8], progress: Progress
) -> tuple[Variant | None, str]:
    """Write the INT8 graph of a bundle under construction, if it passes its gate.

    Returns:
        The variant, or None and the reason.
    """
    graph, report = Gate(exact, LIMITS["int8"]).pass_int8(quantize(exact.model, images), progress=progress)
    if graph is None:
        return None, report.reason
    return _saved(folder, graph, report.kept, report.judgements), ""


def write_int8_students(
    folder: Path,
    students: FusedDetector,
    max_batch: int,
    metadata: dict[str, str],
    exact: ExactAnswers,
    reference: Outputs,
) -> tuple[Variant | None, str]:
    """Write the INT8 graph of students into a bundle under construction, if it passes its gate.

    Args:
        folder: The bundle, which holds its FP32 graph.
        students: The detector that computes INT8 in PyTorch, as its students were trained.
        max_batch: The largest batch of the graph.
        metadata: What the graph says of itself.
        exact: The answers of the bundle's FP32 graph on what to judge on.
        reference: The detector's answers on the golden images.

    Returns:
        The variant, or None and the reason.

    Raises:
        GateError: The graph breaks its contract, or has not the operations of the plan.
    """
    assert students.quantizer is not None
    unquantised = copy.deepcopy(students)
    unquantised.quantizer = None
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / GRAPH
        export_onnx(unquantised, path, max_batch=max_batch, metadata=metadata)
        graph = quantize_by(onnx.load(path), students.quantizer.plan)
    allowed = student_tolerances(students.quantizer.plan.residual_additions)
    judgements = judge_students(graph, exact, reference, allowed)
    if not all(each.passed for each in judgements):
        return None, reason_of(judgements)
    return _saved(folder, graph, [], judgements), ""


def _saved(folder: Path, graph: ModelProto, kept: list[KeptNode], judgements: Collection[Judgement]) -> Variant:
    onnx.save_model(graph, str(folder / graph_file("int8")))
    quantised = set(quantised_nodes(graph))
    return Variant(
        file=graph_file("int8"),
        convolutions=sum(n.op_type in CONVOLUTIONS and n.name in quantised for n in graph.graph.node),
        kept=kept,
        judged=_judged(judgements),
    )


def _judged(judgements: Collection[Judgement]) -> list[Judged]:
    return [
        Judged(
            runtime=each.runtime,
            compared=each.compared,
            flips=each.flips,
            score_max=each.score_max,
            auroc=each.auroc,
            auroc_reference=each.auroc_reference,
            verdicts=each.verdicts,
            decisions=each.decisions or msgspec.UNSET,
        )
        for each in judgements
    ]
