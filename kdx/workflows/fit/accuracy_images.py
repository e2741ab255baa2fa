"""The images that accuracy is measured on: labelled test images, or synthetic defects."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from kd_train.data.synthetic import write_synthetic
from kd_train.evaluation.evaluate import Evaluation, evaluate
from kdx.folders.data_folder import GOOD, TestImage, open_folder
from kdx.imaging.images import InputSpec
from kdx.progress import Progress
from kdx.remarks import Remark
from kdx.runtime.detector import Detector
from kdx.storage.files import hash_of_hashes, sha256_bytes, sha256_if_readable
from kdx.verification.resampling import aurocs, draws
from kdx.workflows.fit.fit_folder import FitFolder
from kdx.workflows.fit.material import Material
from kdx.workflows.fit.trial_records import LABELLED, SYNTHETIC, Scores


@dataclass(frozen=True)
class AccuracyImages:
    """Images to measure accuracy on.

    Attributes:
        kind: ``labelled test images`` or ``synthetic defects``.
        root: The folder that they are in.
        test: The images.
        good_are_held_out: Whether the good ones are those that the threshold was calibrated on: how
            many of them it rejects is then decided, not measured.
        parts: The part that each synthetic image shows, by its file's stem; empty for labelled
            images.
    """

    kind: str
    root: Path
    test: tuple[TestImage, ...]
    good_are_held_out: bool
    parts: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Hash of the images' types, places and content, and of their masks'."""
        return hash_of_hashes(
            sha256_bytes(b"\0".join((os.fsencode(image.defect_type), *self._place_and_content(image))))
            for image in self.test
        )

    def _place_and_content(self, image: TestImage) -> Iterator[bytes]:
        for path in filter(None, (image.path, image.mask)):
            yield os.fsencode(os.path.relpath(path, self.root))  # names need not be UTF-8
            # The evaluation reports and counts what cannot be read.
            yield (sha256_if_readable(path) or "").encode()

    def score(self, detector: Detector, max_bad_images: int, progress: Progress) -> tuple[Scores, list[Remark]]:
        """Measure how well a calibrated detector tells defects on these images.

        Returns:
            The figures, and what makes them doubtful.
        """
        found = evaluate(detector, self.root, self.test, max_bad_images=max_bad_images, progress=progress)
        scores = scores_of(found)
        if self.parts:
            scores = msgspec.structs.replace(scores, image_auroc_error=auroc_error_of_parts(found.scores, self.parts))
        if self.good_are_held_out:
            scores = msgspec.structs.replace(scores, false_reject_rate=None)
        return scores, [*found.remarks, *(found.masks.remarks() if found.masks else [])]

    def notes(self) -> list[str]:
        """Say what a reader of the figures must know."""
        if self.kind == LABELLED:
            notes = [
                "the model was chosen on these very test images: its figures are optimistic; measure it on parts that "
                "took no part in the choice"
            ]
            if self.good_are_held_out:
                notes.append("there are no good test images: the good ones held out for the threshold stand in")
            return notes
        return [
            f"there are no defective test images: accuracy is that of {SYNTHETIC}, drawn on held-out good images in "
            f"'{self.root}'; it ranks detectors and promises nothing for real defects"
        ]


def find_accuracy_images(
    material: Material, folder: FitFolder, held_out: Sequence[Path], spec: InputSpec, progress: Progress, *, seed: int
) -> AccuracyImages:
    """Return the labelled test images, or synthetic defects on held-out good images.

    Args:
        material: The images.
        folder: The output folder, which takes the synthetic ones.
        held_out: Good images that no candidate was trained on.
        spec: What the detectors accept.
        progress: Shows the drawing.
        seed: Seed of the synthetic defects.
    """
    test = material.folder.test
    if any(image.is_defective for image in test):
        if any(not image.is_defective for image in test):
            return AccuracyImages(LABELLED, material.folder.root, test, good_are_held_out=False)
        stand_in = tuple(TestImage(path, GOOD, None) for path in held_out)
        return AccuracyImages(LABELLED, material.folder.root, (*stand_in, *test), good_are_held_out=True)
    drawn_on = write_synthetic(held_out, folder.synthetic, spec, seed=seed, progress=progress)
    parts = {stem: material.parts.get(path, str(path)) for stem, path in drawn_on.items()}
    test = open_folder(folder.synthetic).test
    return AccuracyImages(SYNTHETIC, folder.synthetic, test, good_are_held_out=True, parts=parts)


def scores_of(evaluation: Evaluation) -> Scores:
    """Return an evaluation's figures, with the standard error for independent images."""
    good, defective, auroc = evaluation.good, evaluation.defective, evaluation.image_auroc
    return Scores(
        good=good,
        defective=defective,
        image_auroc=auroc,
        image_auroc_error=auroc_error(auroc, good, defective),
        pixel_auroc=_known(evaluation.pixel_auroc),
        pro=_known(evaluation.pro),
        false_reject_rate=evaluation.false_reject_rate,
        detection_rate=evaluation.detection_rate,
    )


def auroc_error(auroc: float, good: int, defective: int) -> float:
    """Return the standard error of an AUROC of independent images.

    See Hanley and McNeil, Radiology 1982, equation 1.
    """
    both_defective, both_good = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = (
        auroc * (1 - auroc) + (defective - 1) * (both_defective - auroc**2) + (good - 1) * (both_good - auroc**2)
    ) / (good * defective)
    return math.sqrt(max(variance, 0.0))


def auroc_error_of_parts(scores: Mapping[str, float], parts: Mapping[str, str]) -> float:
    """Return the standard error of the AUROC of synthetic defects, by a bootstrap over parts.

    A part is drawn with its images and with all defects on them, which are not independent; see
    :mod:`kdx.verification.resampling`. Where all images show one part, each counts as a part.

    Args:
        scores: The score of each image, by its path ``test/KIND/STEM.png``.
        parts: The part that each image shows, by the stem.
    """
    parts = parts if len(set(parts.values())) > 1 else {stem: stem for stem in parts}
    numbers = {part: number for number, part in enumerate(dict.fromkeys(parts.values()))}
    paths = [PurePosixPath(name) for name in scores]
    is_good = np.array([path.parent.name == GOOD for path in paths])
    part_of = np.array([numbers[parts[path.stem]] for path in paths])
    values, of_good, of_defects = np.array(list(scores.values())), part_of[is_good], part_of[~is_good]
    found = [
        aurocs(values[is_good], values[~is_good], drawn[:, of_good], drawn[:, of_defects])
        for (drawn,) in draws(len(numbers))
    ]
    return float(np.nanstd(np.concatenate(found)))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
