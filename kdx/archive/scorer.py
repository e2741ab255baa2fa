"""Scores the images of a shard with a detector, in whichever process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kdx.archive.score_records import ScoreRow, ScoreWork, ShardResult
from kdx.archive.shard_table import count, write_shard
from kdx.bundle.manifest import INDEX
from kdx.bundle.open import open_bundle
from kdx.decision.label_files import LabelledImage
from kdx.decision.map_files import MapFiles, MapPlace
from kdx.decision.verdict import locates_defects
from kdx.errors import BackendError, BundleError, DataError, ImageError, in_one_line
from kdx.imaging.images import decode_file, read_header
from kdx.imaging.value_range import ValueRange
from kdx.loading.bundle_detector import detector_of
from kdx.runtime.backend import ClosesOnExit
from kdx.runtime.banded import is_read_in_bands
from kdx.storage.files import sha256_if_readable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdx.archive.plan import Shard
    from kdx.decision.verdict import Verdict

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Read:
    """A file as a detector takes it, or why it cannot be used."""

    path: str
    pixels: NDArray[np.uint8] | None
    error: str
    sha256: str | None
    seconds: float
    levels: ValueRange | None
    loses_colour: bool
    size: tuple[int, int]  # the picture's width and height
    in_bands: bool


class ShardScorer(ClosesOnExit):
    """A bundle loaded in this process, to score shards of one run. A context manager.

    Args:
        work: The run.

    Raises:
        BundleError: The bundle is not the one that the run was started with.
        BackendError: The backend is missing here or cannot load the graph.
    """

    def __init__(self, work: ScoreWork) -> None:
        self.work = work
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        self._root = Path(work.archive)
        bundle = open_bundle(work.bundle)
        if bundle.index_sha256 != work.bundle_sha256:
            raise BundleError(
                f"'{work.bundle}' on {socket.gethostname()} is not the bundle of the run",
                expected=f"{INDEX} of sha256 {work.bundle_sha256}",
                received=f"sha256 {bundle.index_sha256}",
                fix="give every machine the same bundle, on shared storage",
            )
        self._detector = detector_of(bundle, work.backend, work.threads, work.precision)
        self._files = MapFiles(Path(work.output), work.maps, work.masks)
        self._needs_size = bool(work.maps or work.masks or work.coco)

    def close(self) -> None:
        """Free the detector."""
        self._detector.close()

    def score(self, shard: Shard) -> ShardResult:
        """Score a shard and write its file.

        Raises:
            DataError: The archive is gone.
            OutputError: The file cannot be written.
        """
        started = time.perf_counter()
        rows = list(self._rows(shard.paths))
        result = count(shard.number, rows, seconds=time.perf_counter() - started, worker=self.worker)
        write_shard(self.work, result, rows)
        return result

    def score_singly(self, paths: Iterable[str]) -> Iterator[ScoreRow]:
        """Yield the rows of images one by one; an image is read after the last row was taken."""
        for path in paths:
            yield from self._judged([self._read(path)])

    def _rows(self, paths: Sequence[str]) -> Iterator[ScoreRow]:
        size = self.work.batch
        batches = [paths[start : start + size] for start in range(0, len(paths), size)]
        for read in _one_ahead(self._read_batch, batches):
            yield from self._judged(read)

    def _read_batch(self, paths: Sequence[str]) -> list[_Read]:
        return [self._read(path) for path in paths]

    def _read(self, path: str) -> _Read:
        started = time.perf_counter()
        file = self._root / path
        spec = self._detector.input
        pixels, levels, error, in_grey, size = None, None, "", False, (spec.width, spec.height)
        in_bands = is_read_in_bands(self._detector, file)
        try:
            if not in_bands:
                pixels, levels, in_grey = decode_file(file, spec)
            if self._needs_size and not spec.fixed_size:
                size = read_header(file)[:2]
        except ImageError as found:
            error = self._reason(found, path)
        # Any other error of a decoder or a file system concerns this image alone.
        except Exception as found:
            error = f"{type(found).__name__}: {found}"
        sha256 = sha256_if_readable(file)
        return _Read(path, pixels, error, sha256, time.perf_counter() - started, levels, in_grey, size, in_bands)

    def _reason(self, error: ImageError, path: str) -> str:
        """Return in one line why an image cannot be used, without the archive's folder.

        Raises:
            DataError: The archive is gone.
        """
        if self._root.is_dir():
            text = in_one_line(error).replace(str(self._root / path), path)
            return printable(text.replace(f"{self._root}{os.sep}", ""))
        raise DataError(
            f"the archive '{self._root}' is gone", fix="mount it, and run the same command again to continue"
        ) from error

    def _judged(self, read: Sequence[_Read]) -> Iterator[ScoreRow]:
        if any(one.in_bands for one in read):
            for one in read:
                yield from [self._judged_in_bands(one)] if one.in_bands else self._judged([one])
            return
        started = time.perf_counter()
        pixels = [one.pixels for one in read if one.pixels is not None]
        try:
            verdicts = iter(self._detector.batch(pixels) if pixels else [])
        except BackendError as error:
            if len(read) > 1:  # one by one, to find the image that fails
                for one in read:
                    yield from self._judged([one])
                return
            yield _row(read[0], None, 0.0, f"the backend failed: {error.message}")
            return
        share = (time.perf_counter() - started) / max(len(pixels), 1)
        for one in read:
            verdict = None if one.pixels is None else next(verdicts)
            yield _row(one, verdict, share, one.error, self._write(one, verdict))

    def _judged_in_bands(self, read: _Read) -> ScoreRow:
        started = time.perf_counter()
        try:
            verdict = self._detector.judge_file(self._root / read.path).verdict
        except ImageError as error:
            return _row(read, None, 0.0, self._reason(error, read.path))
        except BackendError as error:
            return _row(read, None, 0.0, f"the backend failed: {error.message}")
        return _row(read, verdict, time.perf_counter() - started, "")

    def _write(self, read: _Read, verdict: Verdict | None) -> LabelledImage | None:
        """Write map and mask of an image; return its regions where they are asked for."""
        if verdict is None:
            self._files.remove(read.path)  # a call that was stopped may have written some
            return None
        place = MapPlace(*read.size, self._detector.view)
        self._files.write(read.path, verdict, place)
        if not self.work.coco or not locates_defects(verdict):
            return None
        return LabelledImage.of(printable(read.path), verdict, place, self.work.min_area)


def _row(
    read: _Read, verdict: Verdict | None, seconds: float, error: str, labelled: LabelledImage | None = None
) -> ScoreRow:
    milliseconds = 1e3 * (read.seconds + (seconds if verdict is not None else 0.0))
    if verdict is None:
        return ScoreRow(path=printable(read.path), error=error, sha256=read.sha256, milliseconds=milliseconds)
    return ScoreRow(
        path=printable(read.path),
        score=verdict.score,
        decision=verdict.decision.value,
        margin=verdict.margin,
        threshold=verdict.threshold,
        frame_faults=",".join(fault.value for fault in verdict.frame_faults),
        reason=verdict.reason.value if verdict.reason else "",
        sha256=read.sha256,
        milliseconds=milliseconds,
        relative_score=verdict.relative_score,
        p_value=verdict.p_value,
        levels=read.levels,
        loses_colour=read.loses_colour,
        labelled=labelled,
    )


def printable(path: str) -> str:
    """Return a path as UTF-8 text, in which other bytes are written as numbers."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _one_ahead(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield the results of a function; the next is computed while the last is used."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming = [reader.submit(function, item) for item in items[:1]]
        for item in items[1:]:
            coming.append(reader.submit(function, item))
            yield coming.pop(0).result()
        for last in coming:
            yield last.result()
