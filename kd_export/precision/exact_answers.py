"""FP32's answers on the evidence of the gate, with which every other precision is compared."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from kd_export.precision.runners import Runner, evaluation_scores, held_out_scores, runtimes
from kdx.runtime.backend import Outputs
from kdx.verification.held_out import HeldOutScores
from kdx.verification.judge import Evidence


class ExactAnswers:
    """The answers of an FP32 graph, each computed when it is first needed and then kept.

    Args:
        model: The FP32 graph.
        evidence: The images.
        runners: What runs graphs, by runtime; the first runs FP32. None for all of this machine.
    """

    def __init__(self, model: ModelProto, evidence: Evidence, runners: Mapping[str, Runner] | None = None) -> None:
        self.model = model
        self.evidence = evidence
        self.runners = dict(runners or runtimes())
        self.runner = next(iter(self.runners.values()))

    @cached_property
    def golden(self) -> Outputs:
        """The answers on the golden images."""
        return self.runner(self.model, self.evidence.golden)

    @cached_property
    def held_out(self) -> HeldOutScores | None:
        """The scores of held-out images and synthetic defects; None without such images."""
        images = self.evidence.held_out
        return None if images is None else held_out_scores(self.runner, self.model, images)

    @cached_property
    def evaluated(self) -> NDArray[np.float64] | None:
        """The scores of the evaluation images, ``(M,)``; None unless there are both kinds."""
        return evaluation_scores(self.runner, self.model, self.evidence)
