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

# The number of good images whose features are kept, and that of held-out images.
_MOST_KEPT = _MOST_HELD_OUT = 200
_RESAMPLES = 2000
_TAIL = 0.025  # of the interval on either side


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
    defects = DrawnDefects(good, config.seed)
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
        _comparison(source, taps, one, len(set(good.files)), part_of_good, config.seed)
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
    source: str, taps: Sequence[str], detectors: _Detectors, images: int, part_of_good: NDArray[np.intp], seed: int
) -> TeacherComparison:
    parts = len(np.unique(part_of_good))
    aurocs: list[float | None] = [None, None]
    interval = None
    if detectors.defects:
        ordered = [
            ordered_pairs(np.array(good), np.array(defects))
            for good, defects in zip(
                zip(*detectors.good, strict=True), zip(*detectors.defects, strict=True), strict=True
            )
        ]
        aurocs = [round(float(each.mean()), 6) for each in ordered]
        if parts >= LEAST_PARTS:
            part_of_defects = part_of_good[np.arange(len(detectors.defects)) % len(part_of_good)]
            interval = difference_interval(ordered[1] - ordered[0], part_of_good, part_of_defects, seed)
    return TeacherComparison(
        source=source,
        taps=tuple(taps),
        images=images,
        good=len(detectors.good),
        defects=len(detectors.defects),
        auroc=aurocs[1],
        auroc_source=aurocs[0],
        interval=interval,
        outcome=outcome_of(interval, parts),
        parts=None if parts == images else parts,
    )


def ordered_pairs(good: NDArray[np.float64], defects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each pair whether the defect has the higher score; the mean is the AUROC.

    Args:
        good: The scores of good images, ``(G,)``.
        defects: The scores of defects, ``(D,)``.

    Returns:
        1, 0, or 0.5 for equal scores, ``(D, G)``.
    """
    # The sign is -1, 0 or 1.
    pairs: NDArray[np.float64] = (1 + np.sign(defects[:, None] - good[None])) / 2
    return pairs


def difference_interval(
    difference: NDArray[np.float64], part_of_good: NDArray[np.intp], part_of_defects: NDArray[np.intp], seed: int
) -> tuple[float, float]:
    """Return the 95 % confidence interval of a difference of AUROCs, by a paired bootstrap.

    A part is drawn with all its images or tiles and with the defects on them, because they are not
    independent.

    Args:
        difference: The difference of :func:`ordered_pairs` of two detectors, ``(D, G)``.
        part_of_good: The index of the part that each good image shows, ``(G,)``.
        part_of_defects: The index of the part that each defect is drawn on, ``(D,)``.
        seed: The seed of the resamples.
    """
    parts = int(part_of_good.max()) + 1
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(parts, np.full(parts, 1 / parts), size=_RESAMPLES)
    # Multiples of one half: their sums are exact, in any order and on any number of threads.
    rows, columns = (counts[:, each].astype(np.float64) for each in (part_of_defects, part_of_good))
    sums = ((rows @ difference) * columns).sum(1)
    low, high = np.quantile(sums / (rows.sum(1) * columns.sum(1)), (_TAIL, 1 - _TAIL))
    return round(float(low), 6), round(float(high), 6)


def _spread(count: int, most: int) -> range:
    """Return at most so many indices, evenly spread."""
    return range(0, count, max(1, -(-count // most)))
