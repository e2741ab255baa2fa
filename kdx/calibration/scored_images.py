"""Images read, compared with those that were trained on, and scored once each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdx.errors import DataError, ImageError
from kdx.folders.bad_images import skip_bad
from kdx.imaging.frame_faults import ChannelValues, lasting_faults_of, values_of
from kdx.imaging.image_identity import Identity, KnownImages, Likeness, identify
from kdx.progress import SILENT, Progress
from kdx.runtime.banded import judge_path
from kdx.runtime.detector import Detector
from kdx.text import number_of


@dataclass
class ScoredImages:
    """Images that were scored, and those that were left out.

    Attributes:
        scores: The score of each image that shows a part.
        hottest: The largest map value of each image.
        hashes: The file hash of each image.
        keys: Path of each image by the key by which copies are recognised, also of images that were
            only fitted on or show no part.
        trained_on: Images that were skipped because they were trained on.
        copies: Copies of other images, which were not scored.
        near: Images that are nearly the same as one that was trained on.
        identified: Path and identity of each image that was scored.
        faults: Names of the frame faults of images that show no part, by path. They have no score
            here: whatever it is, the line does not call them good.
        frames: Values of each channel of the images that were scored, by path.
    """

    scores: list[float] = field(default_factory=list)
    hottest: list[float] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    keys: dict[str, Path] = field(default_factory=dict)
    trained_on: list[Path] = field(default_factory=list)
    copies: list[Path] = field(default_factory=list)
    near: list[Path] = field(default_factory=list)
    identified: list[tuple[Path, Identity]] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    frames: dict[str, list[ChannelValues]] = field(default_factory=dict)


@dataclass
class ImageScorer:
    """Scores the images of a calibration.

    Attributes:
        detector: Scores them.
        trained: The images that the student was trained on, which are skipped.
        max_bad_images: How many images may be unreadable.
        progress: Shows every image.
        bad: Images that could not be read, and why.
    """

    detector: Detector
    trained: KnownImages
    max_bad_images: int = 0
    progress: Progress = SILENT
    bad: dict[str, str] = field(default_factory=dict)

    def score(self, paths: Sequence[Path], kind: str, skipped: Collection[str] = ()) -> ScoredImages:
        """Score each image once that was not trained on.

        Args:
            paths: Image files.
            kind: ``good`` or ``defective``, for messages.
            skipped: File hashes of further images that are not scored.

        Raises:
            ImageError: More images than allowed cannot be read.
            DataError: A score is not finite.
        """
        found = ScoredImages()
        seen: set[str] = set()
        with self.progress.task(f"scoring {kind} images", len(paths)) as task:
            for number, path in enumerate(paths, 1):
                task.advance()
                try:
                    identity = identify(path)
                    likeness = self.trained.likeness(identity)
                    if self._is_new(path, identity, likeness, found, seen) and identity.file not in skipped:
                        self._add(path, identity, likeness, found)
                except ImageError as error:
                    skip_bad(path, error, self.bad, self.max_bad_images, len(paths) - number)
        wrong = int((~np.isfinite(np.array(found.scores))).sum())
        if wrong:
            said = number_of(wrong, f"{kind} [image has a score that is|images have scores that are] not finite")
            raise DataError(said, fix="run kdx verify")
        return found

    def _is_new(self, path: Path, identity: Identity, likeness: Likeness, found: ScoredImages, seen: set[str]) -> bool:
        """Whether an image is neither a training image nor a copy; those are counted."""
        if likeness is Likeness.SAME:
            found.trained_on.append(path)
            return False
        hashes = {identity.file, identity.key}
        if hashes & seen:
            found.copies.append(path)
            return False
        seen |= hashes
        found.keys[identity.key] = path
        return True

    def _add(self, path: Path, identity: Identity, likeness: Likeness, found: ScoredImages) -> None:
        """Score an image, if it shows a part."""
        verdict, image = judge_path(self.detector, path)
        faults = lasting_faults_of(image, self.detector.frame_limits)
        if faults:
            found.faults[str(path)] = [fault.value for fault in faults]
            return
        if likeness is Likeness.NEAR:
            found.near.append(path)
        found.identified.append((path, identity))
        found.scores.append(verdict.score)
        found.hottest.append(float(verdict.anomaly_map.max()))
        found.hashes.append(identity.file)
        found.frames[str(path)] = values_of(image)
