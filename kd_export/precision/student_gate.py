"""The gate before INT8 students: they must decide as well as FP32, or they are not written.

They were trained as the INT8 networks that their graph computes, so no layer is put back to FP32,
and their scores may be others than FP32's, see :mod:`kdx.verification.decisions`. What a runtime
computes must agree with the module that was trained.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from kd_export.precision.exact_answers import ExactAnswers
from kd_export.precision.runners import Runner, evaluation_scores, held_out_scores
from kdx.runtime.backend import Outputs
from kdx.verification.decisions import Labelled, judge_decisions
from kdx.verification.held_out import HeldOutScores
from kdx.verification.judge import Judgement
from kdx.verification.tolerances import DECISIONS, Tolerances


def judge_students(
    students: ModelProto, exact: ExactAnswers, reference: Outputs, allowed: Tolerances
) -> list[Judgement]:
    """Judge the INT8 graph of students in every runtime.

    Args:
        students: The INT8 graph.
        exact: The answers of the bundle's FP32 graph on the evidence, whose decisions theirs are
            compared with.
        reference: The answers of the module that was trained, on the golden images.
        allowed: How far from these a runtime may be.
    """
    evidence = exact.evidence

    def judge(name: str, runner: Runner) -> Judgement:
        answers = exact.golden, reference, runner(students, evidence.golden)
        judgement = judge_decisions(name, DECISIONS, allowed, answers)
        # There are many further images, which a graph that has failed already does not need.
        if not judgement.passed:
            return judgement
        found = evaluation_scores(runner, students, evidence)
        labelled = None
        if exact.evaluated is not None and found is not None and evidence.is_defective is not None:
            labelled = Labelled(evidence.is_defective, exact.evaluated, found)
        none = HeldOutScores(np.empty(0), np.empty(0))  # too little evidence
        both = none, none
        if exact.held_out is not None and evidence.held_out is not None:
            both = exact.held_out, held_out_scores(runner, students, evidence.held_out)
        return judge_decisions(name, DECISIONS, allowed, answers, both, labelled)

    return [judge(name, each) for name, each in exact.runners.items()]
