"""What a product's result says of its images, run and threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdx.folders.bad_images import skipped_remark
from kdx.remarks import Remark, remark
from kdx.workflows.calibrations import Calibrations

if TYPE_CHECKING:
    from kd_train.evaluation.evaluate import Evaluation
    from kd_train.training.students import TrainResult


def remarks_on_product(
    trained: TrainResult | None, others: Sequence[Remark], calibrated: Calibrations, evaluation: Evaluation | None
) -> list[Remark]:
    """Return everything that training, calibration and evaluation remark on, each kind once.

    Training and calibration read the same good images, so that the first remark of a kind is
    enough.

    Args:
        trained: What was trained; None where the images were reported before.
        others: Further remarks on the run and the bundle.
        calibrated: The calibrations.
        evaluation: The evaluation on labelled test images; None without one.
    """
    stages = [each for each in (trained, trained and trained.int8) if each]
    of_training = [each for stage in stages for each in stage.remarks]
    of_good = [*of_training, *others, *calibrated.remarks, *_on_frames(calibrated)]
    first = list({each.kind: each for each in reversed(of_good)}.values())[::-1]
    bad = {str(path): reason for stage in stages for path, reason in stage.bad_images.items()}
    bad |= {**calibrated.exact.bad_images, **(evaluation.bad_images if evaluation else {})}
    of_test = [*evaluation.remarks, *(evaluation.masks.remarks() if evaluation.masks else [])] if evaluation else []
    return [*first, *_not_measured(calibrated), *skipped_remark(bad.values()), *of_test]


def _on_frames(calibrated: Calibrations) -> list[Remark]:
    """Return remarks on good images whose frames show no part, or which limits depend on alone."""
    return [
        *remark(
            "no_part",
            "good [image shows|images show] no part, so that no threshold was chosen on [it|them], and the line calls "
            "no frame like [it|them] good",
            calibrated.exact.frame_faults,
        ),
        *remark(
            "frame_outliers",
            "good [image alone widens|images alone widen] the limits of frames: look whether [it shows|they show] a "
            "part",
            calibrated.exact.frame_outliers,
        ),
    ]


def _not_measured(calibrated: Calibrations) -> list[Remark]:
    """Return a remark for each precision on the runtimes that are not here to measure it."""
    text = (
        "[runtime that cannot run {0} here has|runtimes that cannot run {0} here have] no threshold for it, and "
        "[gives|give] no verdict until kdx calibrate, with the same images, on a machine that can"
    )
    missing = calibrated.missing.items()
    return [each for name, runtimes in missing for each in remark("not_measured_here", text.format(name), runtimes)]
