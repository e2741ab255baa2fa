"""Evaluating a run or a bundle on the labelled images of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kd_train.data.golden_images import golden_remarks
from kd_train.datasets import open_data
from kd_train.evaluation.evaluate import Evaluation, evaluate
from kdx.bundle.open import open_bundle
from kdx.errors import DataError
from kdx.folders.copies import in_test
from kdx.folders.data_folder import FolderOptions, TestImage, images_to_evaluate
from kdx.imaging.grey_conversion import grey_conversion_remarks
from kdx.imaging.images import InputSpec
from kdx.loading.load import is_run, load
from kdx.progress import SILENT, Progress
from kdx.remarks import remark
from kdx.verification.backend_choice import other_precisions
from kdx.workflows.calibration_images import without_chosen_rates
from kdx.workflows.export import training_remarks
from kdx.workflows.packages import require_reader
from kdx.workflows.trained_images import images_trained_on

_NO_PIXEL_FIGURES = (
    "[image has|images have] no pixel AUROC and no PRO: the bundle reads frames in bands, and maps are never whole"
)


@dataclass(frozen=True)
class EvaluationRequest:
    """The options of ``kdx evaluate``."""

    category: str | None = None
    folder_options: FolderOptions | None = None
    backend: str = "auto"
    precision: str = "fp32"
    threads: int | None = None
    checkpoint: str | None = None
    max_bad_images: int = 0


def evaluate_folder(
    detector: Path, data: Path, request: EvaluationRequest, progress: Progress = SILENT
) -> tuple[Evaluation, str | None]:
    """Evaluate on the test images of a folder; add remarks on what makes the figures doubtful.

    Good images alone, in a plain folder or in ``test/good``, give the false rejects at the
    threshold. Frames that are read in bands give no pixel figures: their maps are never whole.

    Args:
        detector: The run folder or the bundle.
        data: A folder in MVTec layout, or a published data set.
        request: How.
        progress: Shows the images.

    Returns:
        The figures, and the category that the folder contains; None for a folder of one's own.

    Raises:
        DataError: There are no good images; or no defective ones, and the detector has no
            threshold.
        KdxError: The detector, or an option, is not usable.
    """
    with load(detector, request.backend, request.threads, request.checkpoint, request.precision) as loaded:
        require_reader(loaded.input)
        folder = open_data(data, request.category, request.folder_options, progress=progress)
        images = images_to_evaluate(folder)
        if loaded.threshold is None and not any(image.is_defective for image in images):
            raise DataError(
                f"'{folder.root}' holds good images alone, and '{detector}' has no threshold that could reject them",
                expected="a calibrated bundle, or test images of both kinds",
                fix=f"{_calibrated(detector)}; or add test/DEFECT_TYPE with images",
            )
        result = evaluate(
            loaded,
            folder.root,
            images,
            max_bad_images=request.max_bad_images,
            unused_masks=folder.unused_masks,
            progress=progress,
        )
    result = with_doubts(result, images, detector, loaded.input, progress)
    remarks = [*folder.remarks, *result.remarks]
    if is_run(detector):
        remarks += training_remarks(detector, request.checkpoint)
    else:
        bundle = open_bundle(detector)
        remarks += [*bundle.manifest.provenance.remarks(), *other_precisions(bundle, request.precision)]
    if loaded.input.is_in_bands:
        remarks += remark("no_pixel_figures", _NO_PIXEL_FIGURES, [image.path for image in images])
    return replace(result, remarks=tuple(remarks)), folder.category


def _calibrated(detector: Path) -> str:
    """Return the commands that give a detector a threshold."""
    if is_run(detector):
        return f"export and calibrate it: kdx export {detector} -o BUNDLE, then kdx calibrate BUNDLE DATA"
    return f"calibrate it: kdx calibrate {detector} DATA"


def with_doubts(
    result: Evaluation, images: Sequence[TestImage], detector: Path, spec: InputSpec, progress: Progress = SILENT
) -> Evaluation:
    """Return an evaluation with remarks on the test images that make its figures doubtful.

    Args:
        result: The figures.
        images: The test images.
        detector: The run folder or the bundle that scored them.
        spec: What it accepts.
        progress: Shows the images.
    """
    remarks = [
        *result.remarks,
        *in_test(images, images_trained_on(detector), progress),
        *grey_conversion_remarks([image.path for image in images], spec),
    ]
    if is_run(detector):
        return replace(result, remarks=tuple(remarks))
    bundle = open_bundle(detector)
    return without_chosen_rates(bundle, images, replace(result, remarks=(*remarks, *golden_remarks(bundle, images))))
