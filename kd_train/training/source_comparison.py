"""The comparison of a compact teacher with its source: which features tell defects better?

Only the distillation has the source, so it compares both at its end. Each network's features are a
detector without a student (:mod:`kd_train.training.good_features`), of good images that the teacher
learnt from. It scores held-out good images, and synthetic defects on them of the kinds that
the gates of the export draw and training does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_train.data.gate_images import DrawnDefects
from kd_train.data.image_set import ImageSet
from kd_train.models.pair import Pair
from kd_train.training.good_features import GoodFeatures
from kd_train.training.run_config import RunConfig, preprocess_of
from kdx.bundle.teacher_comparison import LEAST_PARTS, TeacherComparison, outcome_of
from kdx.progress import SILENT, Progress
from kdx.verification.held_out import auroc_of
from kdx.verification.resampling import aurocs, draws, interval

_Scores = tuple[NDArray[np.float64], NDArray[np.float64]]

# The number of good images whose features are kept, and that of held-out images.
_MOST_KEPT = _MOST_HELD_OUT = 200


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums in another order differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.inference_mode()
def compare_with_source(
    pair: Pair,
    groups: Sequence[tuple[str, Sequence[str]]],
    config: RunConfig,
    train: ImageSet,
    held_out: ImageSet,
    parts: Mapping[Path, str],
    progress: Progress = SILENT,
) -> list[TeacherComparison]:
    """Compare a compact teacher's features with those of its sources.

    Args:
        pair: The source as the teacher, and the compact teacher as its student.
        groups: The name of the source and of its taps, for each group of the pair's taps.
        config: The configuration of the teacher's run.
        train: The good images that the teacher learnt from.
        held_out: Good images that it did not learn from.
        parts: The part that each image shows; an image without an entry is a part of its own.
        progress: The progress display.

    Returns:
        A comparison for each group.
    """
    kept = train.at(_spread(len(train), _MOST_KEPT))
    good = held_out.at(_spread(len(held_out), _MOST_HELD_OUT))
    defects = DrawnDefects(good, config.seed, config.input)
    detectors = [_Detectors(len(taps), len(kept), config.seed) for _, taps in groups]
    preprocess = preprocess_of(config)

    def compared(image: NDArray[np.uint8]) -> Iterator[tuple[_Detectors, list[tuple[Tensor, Tensor]]]]:
        features = pair(preprocess(torch.from_numpy(image)[None]))
        task.advance()
        start = 0
        for (_, taps), one in zip(groups, detectors, strict=True):
            yield one, features[start : start + len(taps)]
            start += len(taps)

    total = len(kept) + len(good) + len(defects)
    with one_thread(), progress.task("comparing the compact teacher with its source", total) as task:
        for index in range(len(kept)):
            for detector, features in compared(kept[index]):
                detector.add(features)
        for index in range(len(good)):
            for detector, features in compared(good[index]):
                detector.good.append(detector.score(features))
        for image in defects:
            for detector, features in compared(image):
                detector.defects.append(detector.score(features))
    part_of_good = _part_of_each(good, parts)
    return [
        _comparison(source, taps, one, len(set(good.files)), part_of_good)
        for (source, taps), one in zip(groups, detectors, strict=True)
    ]


class _Detectors:
    """A source and a compact teacher as detectors.

    Attributes:
        good: Both scores of each good image, the source's first.
        defects: Both scores of each defect.
    """

    def __init__(self, taps: int, images: int, seed: int) -> None:
        self._of = [GoodFeatures(taps, images, seed) for _ in range(2)]
        self.good: list[list[float]] = []
        self.defects: list[list[float]] = []

    def add(self, features: Sequence[tuple[Tensor, Tensor]]) -> None:
        for network, of in enumerate(self._of):
            of.add([feature[network] for feature in features])

    def score(self, features: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
        return [of.score([feature[network] for feature in features]) for network, of in enumerate(self._of)]


def _part_of_each(good: ImageSet, parts: Mapping[Path, str]) -> NDArray[np.intp]:
    """Return the index of the part that each image or tile shows, ``(G,)``."""
    shown = [parts.get(path) or path for path in good.files]
    index = {part: number for number, part in enumerate(dict.fromkeys(shown))}
    return np.array([index[part] for part in shown], np.intp)


def _comparison(
    source: str, taps: Sequence[str], detectors: _Detectors, images: int, part_of_good: NDArray[np.intp]
) -> TeacherComparison:
    parts = len(np.unique(part_of_good))
    areas: list[float | None] = [None, None]
    ends = None
    if detectors.defects:
        scores = list(zip(np.array(detectors.good).T, np.array(detectors.defects).T, strict=True))
        areas = [round(auroc_of(*each), 6) for each in scores]
        if parts >= LEAST_PARTS:
            part_of_defects = part_of_good[np.arange(len(detectors.defects)) % len(part_of_good)]
            ends = difference_interval(scores[0], scores[1], part_of_good, part_of_defects)
    return TeacherComparison(
        source=source,
        taps=tuple(taps),
        images=images,
        good=len(detectors.good),
        defects=len(detectors.defects),
        auroc=areas[1],
        auroc_source=areas[0],
        interval=ends,
        outcome=outcome_of(ends, parts),
        parts=None if parts == images else parts,
    )


def difference_interval(
    source: _Scores, teacher: _Scores, part_of_good: NDArray[np.intp], part_of_defects: NDArray[np.intp]
) -> tuple[float, float]:
    """Return the 95 % confidence interval of a difference of AUROCs, by a paired bootstrap.

    A part is drawn with all its images or tiles and with the defects on them, because they are not
    independent.

    Args:
        source: The source's scores of good images ``(G,)`` and of defects ``(D,)``.
        teacher: The compact teacher's scores of the same.
        part_of_good: The index of the part that each good image shows, ``(G,)``.
        part_of_defects: The index of the part that each defect is drawn on, ``(D,)``.
    """
    low, high = interval(
        aurocs(*teacher, drawn[:, part_of_good], drawn[:, part_of_defects])
        - aurocs(*source, drawn[:, part_of_good], drawn[:, part_of_defects])
        for (drawn,) in draws(int(part_of_good.max()) + 1)
    )
    return round(low, 6), round(high, 6)


def _spread(count: int, most: int) -> range:
    """Return at most so many indices, evenly spread."""
    return range(0, count, max(1, -(-count // most)))
