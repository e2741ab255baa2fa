"""The rule of a detector: everything that turns a graph's answer into a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.decision.answers import AnswerLimits, answer_limits
from kdx.decision.good_scores import GoodScores
from kdx.decision.level_map import Level, level_of
from kdx.decision.post_processing import PostProcessing
from kdx.decision.roi import Roi, RoiFrame, roi_of
from kdx.decision.verdict import Verdict, decide, reason_for
from kdx.errors import OptionError
from kdx.imaging.frame_faults import FrameLimits, faults_of


@dataclass(frozen=True, eq=False, kw_only=True)
class DecisionRule:
    """How verdicts are reached.

    A rule does not change; :func:`dataclasses.replace` makes another one.

    Attributes:
        threshold: The calibrated score above which an image is defective; None without a
            calibration.
        review_threshold: The calibrated score above which somebody should look; None without a
            review band.
        pixel_threshold: The calibrated map value that hardly any good image reaches; None without a
            calibration.
        good_scores: The scores of the good images of the calibration, for p-values; None without a
            calibration, or with one of an older kdx, which kept no scores.
        threshold_by_hand: Why a person set the threshold, in their words; None for a threshold that
            was chosen from scores.
        level: The level map by which anomaly maps are divided, or None.
        roi: The region of interest, outside of which nothing counts, or None.
        roi_frame: What regions of interest for single images must fit; None where none are
            accepted.
        field_of_view: Share of each side of the image, centred, that the map covers; below 1 for
            methods that crop.
        frame_limits: What frames that show a part look like.
        answer_limits: What holds of every answer that the method can give.
    """

    threshold: float | None = None
    review_threshold: float | None = None
    pixel_threshold: float | None = None
    good_scores: GoodScores | None = None
    threshold_by_hand: str | None = None
    level: Level | None = None
    roi: Roi | None = None
    roi_frame: RoiFrame | None = None
    field_of_view: float = 1.0
    frame_limits: FrameLimits = field(default_factory=FrameLimits)
    answer_limits: AnswerLimits = field(default_factory=AnswerLimits)

    def __post_init__(self) -> None:
        """Refuse thresholds that are no finite numbers: no score exceeds NaN or infinity.

        Raises:
            OptionError: A threshold is not a finite number.
        """
        for name in ("threshold", "review_threshold", "pixel_threshold"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise OptionError(f"invalid `{name}`", expected="a finite number, or None", received=repr(value))

    @classmethod
    def of(cls, bundle: Bundle, precision: str, runtime: str) -> DecisionRule:
        """Return the rule of a bundle.

        Args:
            bundle: The bundle.
            precision: The precision of the graph: BF16 and INT8 have thresholds of their own.
            runtime: The runtime that computes the scores, see
                :func:`kdx.runtime.backend_table.runtime_of`.

        Raises:
            BundleError: Its region of interest or its level map is invalid.
        """
        manifest = bundle.manifest
        calibrated = manifest.threshold_of(precision, runtime)
        return cls(
            threshold=calibrated.score if calibrated else None,
            review_threshold=calibrated.review.score if calibrated and calibrated.review else None,
            pixel_threshold=calibrated.pixel if calibrated else None,
            good_scores=GoodScores.of(calibrated) if calibrated else None,
            threshold_by_hand=calibrated.reason if calibrated else None,
            level=level_of(bundle),
            roi=roi_of(bundle),
            roi_frame=RoiFrame.of(manifest),
            field_of_view=manifest.field_of_view,
            frame_limits=manifest.frame_limits,
            answer_limits=answer_limits(manifest.pair, manifest.map_size),
        )

    @property
    def post_processing(self) -> PostProcessing:
        """The operations on maps and scores between the graph and the decision."""
        return PostProcessing(self.level, self.roi)

    def verdict(
        self,
        anomaly_map: NDArray[np.float32],
        score: NDArray[np.float32],
        image: NDArray[np.uint8] | None = None,
        roi: Roi | None = None,
    ) -> Verdict:
        """Return the verdict on one image.

        Args:
            anomaly_map: The graph's map, float32 ``(h, w)``.
            score: The graph's score, float32 ``(1,)``.
            image: The frame, uint8 ``(H, W, C)``, which is checked for faults; None if it lies on
                the GPU.
            roi: A region of interest for this image; None for the rule's own. The thresholds do not
                apply in a different region.
        """
        fault = self.answer_limits.fault_of(anomaly_map, float(score[0]))
        is_calibrated = roi is None or roi.is_same(self.roi)
        anomaly_map, score = PostProcessing(self.level, roi or self.roi).apply(anomaly_map, score)
        value = float("nan") if fault else float(score[0])
        frame_faults = () if image is None else faults_of(image, self.frame_limits)
        threshold = self.threshold if is_calibrated else None
        review_threshold = self.review_threshold if is_calibrated else None
        held_out = self.good_scores if is_calibrated else None
        decision = decide(value, threshold, frame_faults, review_threshold)
        return Verdict(
            decision=decision,
            score=value,
            threshold=threshold,
            anomaly_map=anomaly_map,
            pixel_threshold=self.pixel_threshold if is_calibrated else None,
            frame_faults=frame_faults,
            review_threshold=review_threshold,
            reason=reason_for(decision, value, threshold, fault, other_region=not is_calibrated),
            frame_checked=image is not None,
            p_value=held_out.p_value(value) if held_out else None,
            held_out_images=held_out.images if held_out else 0,
        )
