"""The gate before INT8 students: they must decide as well as FP32, or they are not written.

They were trained as the INT8 networks that their graph computes, so no layer is put back to FP32,
and their scores may be others than FP32's, see :mod:`kdx.verification.decisions`. What a runtime
computes must agree with the module that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto

from kd_export.precision.runners import Runner, evaluation_scores, held_out_scores, runtimes
from kdx.runtime.backend import Outputs
from kdx.verification.decisions import Labelled, judge_decisions
from kdx.verification.held_out import HeldOut
from kdx.verification.judge import Evidence, Judgement
from kdx.verification.tolerances import DECISIONS, INT8_STUDENTS


def judge_students(
    students: ModelProto,
    model: ModelProto,
    evidence: Evidence,
    reference: Outputs,
    runners: Mapping[str, Runner] | None = None,
) -> list[Judgement]:
    """Judge the INT8 graph of students in every runtime.

    Args:
        students: The INT8 graph.
        model: The FP32 graph of the bundle, whose decisions theirs are compared with.
        evidence: What to judge on.
        reference: The answers of the module that was trained, on the golden images.
        runners: What runs graphs, by runtime; the first also runs FP32. None for all of this
            machine.
    """
    runners = runners or runtimes()
    runner = next(iter(runners.values()))
    images = evidence.held_out or HeldOut([], [])  # without images, there is too little evidence
    golden, held_out = runner(model, evidence.golden), held_out_scores(runner, model, images)
    evaluated = evaluation_scores(runner, model, evidence)

    def judge(name: str, runner: Runner) -> Judgement:
        answers = golden, reference, runner(students, evidence.golden)
        judgement = judge_decisions(name, DECISIONS, INT8_STUDENTS, answers)
        # There are many further images, which a graph that has failed already does not need.
        if not judgement.passed:
            return judgement
        found = evaluation_scores(runner, students, evidence)
        labelled = None
        if evaluated is not None and found is not None and evidence.is_defective is not None:
            labelled = Labelled(evidence.is_defective, evaluated, found)
        both = held_out, held_out_scores(runner, students, images)
        return judge_decisions(name, DECISIONS, INT8_STUDENTS, answers, both, labelled)

    return [judge(name, each) for name, each in runners.items()]
