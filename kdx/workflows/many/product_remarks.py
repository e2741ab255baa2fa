"""What a product's result says of its images, run and threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdx.folders.bad_images import skipped_remark
from kdx.remarks import Remark, remark
from kdx.workflows.calibrations import Calibrations

if TYPE_CHECKING:
    from kd_train.evaluation.evaluate import Evaluation


def remarks_on_product(training: list[Remark], calibrated: Calibrations, evaluation: Evaluation | None) -> list[Remark]:
    """Return everything that training, calibration and evaluation remark on, each kind once.

    Training and calibration read the same good images, so that the first remark of a kind is
    enough.

    Args:
        training: The remarks of the training and on its run.
        calibrated: The calibrations.
        evaluation: The evaluation on labelled test images; None without one.
    """
    of_good = [*training, *calibrated.remarks, *_on_frames(calibrated)]
    first = list({each.kind: each for each in reversed(of_good)}.values())[::-1]
    bad = {**calibrated.exact.bad_images, **(evaluation.bad_images if evaluation else {})}
    of_test = [*evaluation.remarks, *(evaluation.masks.remarks() if evaluation.masks else [])] if evaluation else []
    return [*first, *skipped_remark(bad.values()), *of_test]


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
