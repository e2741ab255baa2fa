"""The gate before a faster variant: it must decide what FP32 decides, or it is not written.

INT8 and BF16 move scores; each gets a threshold of its own. What must survive is the decision: no
image further than a stated margin from the threshold changes sides; without a threshold yet, no two
images further apart than that change their order. Layers whose quantisation changes the maps most
are put back to FP32 until that holds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from kd_export.precision.exact_answers import ExactAnswers
from kd_export.precision.quantize import put_back, quantised_nodes
from kd_export.precision.runners import Runner, evaluation_scores, held_out_scores, run_openvino_bf16, scores_of
from kd_export.precision.sensitivity import MEASURED, Sensitivity, worst_layers
from kdx.bundle.variants import KeptNode
from kdx.progress import SILENT, Progress
from kdx.verification.judge import Judgement, judge
from kdx.verification.tolerances import Limits

# With more of the networks in FP32 than this, INT8 is no faster than BF16.
_MOST_PUT_BACK = 0.5
# Images on which layers are compared; each costs one run per layer.
_COMPARED_IMAGES = 4
_FIGURES = re.compile(r"\d+(\.\d+)?")


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the gate.

    Attributes:
        precision: The precision of the variant.
        passed: Whether the variant may be written.
        kept: Nodes that were put back to FP32, worst first.
        quantised: Number of nodes that are quantised.
        attempts: Number of graphs that were judged.
        judgements: The judgements of the last graph, one for each runtime.
        reason: Why the variant may not be written, or an empty string.
    """

    precision: str
    passed: bool
    kept: list[KeptNode]
    quantised: int
    attempts: int
    judgements: list[Judgement]
    reason: str = ""


class Gate:
    """Judges variants of one FP32 graph.

    Args:
        exact: The answers of that graph on the evidence.
        limits: What a variant of this precision may change.
    """

    def __init__(self, exact: ExactAnswers, limits: Limits) -> None:
        self.exact = exact
        self.model, self.evidence = exact.model, exact.evidence
        self.limits = limits

    def judge(self, variant: ModelProto, runners: Mapping[str, Runner] | None = None) -> list[Judgement]:
        """Compare a graph with FP32 in every runtime, or in those named."""
        return [self._judge(name, runner, variant) for name, runner in (runners or self.exact.runners).items()]

    def _judge(self, name: str, runner: Runner, variant: ModelProto) -> Judgement:
        outputs = runner(variant, self.evidence.golden)
        golden = scores_of(self.exact.golden), scores_of(outputs)
        maps = self.exact.golden.maps, outputs.maps
        judgement = judge(name, self.limits, self.evidence, golden, maps)
        # There are many further images, which a graph that has failed already does not need.
        held_out = evaluated = None
        if judgement.passed and self.evidence.held_out is not None and self.exact.held_out is not None:
            held_out = self.exact.held_out, held_out_scores(runner, variant, self.evidence.held_out)
            judgement = judge(name, self.limits, self.evidence, golden, maps, held_out=held_out)
        if judgement.passed and self.exact.evaluated is not None:
            evaluated = self.exact.evaluated, evaluation_scores(runner, variant, self.evidence)
            judgement = judge(name, self.limits, self.evidence, golden, maps, evaluated, held_out)
        return judgement

    def pass_bf16(self) -> GateReport:
        """Judge the FP32 graph as OpenVINO computes it in BF16. There is nothing to put back.

        Raises:
            BackendError: This CPU has no BF16.
        """
        return _report("bf16", [], 0, 1, self.judge(self.model, {"openvino": run_openvino_bf16}))

    def pass_int8(self, quantised: ModelProto, *, progress: Progress = SILENT) -> tuple[ModelProto | None, GateReport]:
        """Put layers back to FP32 until the INT8 graph passes, as few as that takes.

        Returns:
            The graph that passed, or None, and the report.
        """
        judgements = self.judge(quantised)
        if all(judgement.passed for judgement in judgements):
            return quantised, _report("int8", [], len(quantised_nodes(quantised)), 1, judgements)
        nodes = quantised_nodes(quantised)
        with progress.task("measuring layers", min(MEASURED, len(nodes))) as task:
            worst = worst_layers(
                quantised,
                self.model,
                self._mixed_images(),
                lambda model, images: self.exact.runner(model, images).maps,
                step=lambda: task.advance(),
            )
        return self._search(quantised, worst, judgements)

    def _search(
        self, quantised: ModelProto, worst: Sequence[Sensitivity], judgements: list[Judgement]
    ) -> tuple[ModelProto | None, GateReport]:
        """Double how many layers are put back until the graph passes, then halve the last step."""
        most = int(len(worst) * _MOST_PUT_BACK)
        attempts, failed, count = 1, 0, 1
        best: tuple[ModelProto, list[Judgement], int] | None = None
        while failed < most and (best is None or best[2] - failed > 1):
            count = min(2 * failed or 1, most) if best is None else (failed + best[2]) // 2
            graph = put_back(quantised, self.model, {layer.node for layer in worst[:count]})
            found = self.judge(graph)
            attempts += 1
            if all(judgement.passed for judgement in found):
                best = (graph, found, count)
            else:
                failed = count
                if best is None:
                    judgements = found
        if best is None:
            return None, _report("int8", worst[:failed], len(worst) - failed, attempts, judgements)
        graph, found, count = best
        return graph, _report("int8", worst[:count], len(worst) - count, attempts, found)

    def _mixed_images(self) -> NDArray[np.uint8]:
        """Return a few golden images, spread over all of them, because the good ones come first."""
        golden = self.evidence.golden
        chosen = np.linspace(0, len(golden) - 1, min(_COMPARED_IMAGES, len(golden)))
        mixed: NDArray[np.uint8] = golden[chosen.round().astype(int)]
        return mixed


def _report(
    precision: str, worst: Sequence[Sensitivity], quantised: int, attempts: int, judgements: Collection[Judgement]
) -> GateReport:
    return GateReport(
        precision=precision,
        passed=all(judgement.passed for judgement in judgements),
        kept=[KeptNode(node=each.node, reason=f"INT8 moves {_what(each)} by {each.error:.2%}") for each in worst],
        quantised=quantised,
        attempts=attempts,
        judgements=list(judgements),
        reason=(f"with {len(worst)} nodes in FP32, " if worst else "") + reason_of(judgements),
    )


def reason_of(judgements: Collection[Judgement]) -> str:
    """Return the faults of all runtimes in words, each kind once.

    Runtimes that fail alike differ in the last digits: the figures are those of the first.
    """
    kinds: dict[str, dict[str, str]] = {}
    for each in judgements:
        for fault in each.faults:
            kinds.setdefault(_FIGURES.sub("", fault), {})[each.runtime] = fault
    said: dict[str, list[str]] = {}
    for found in kinds.values():
        first, *others = found
        where = " and ".join(found)
        if any(found[other] != found[first] for other in others):
            where += f" (figures of {first})"
        said.setdefault(where, []).append(found[first])
    return "; ".join(f"{where}: {'; '.join(faults)}" for where, faults in said.items())


def _what(layer: Sensitivity) -> str:
    return "the maps" if layer.of_maps else "its own output"
