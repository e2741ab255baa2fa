"""A backend for frames larger than its graph's input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.manifest import Manifest
from kdx.decision.answers import AnswerLimits, answer_limits
from kdx.errors import BackendError
from kdx.imaging.tiling import Frame, Stitcher
from kdx.runtime.backend import Backend, ClosesOnExit, Outputs, largest_batch


class Bands:
    """The map of a frame in bands of finished rows, from the top down.

    Only the rows to which tiles may still be added are in memory. The frame is judged while this is
    iterated over: it yields the first row of each band with its values ``(h, w)``.

    Attributes:
        is_sound: Whether all answers so far were ones that the method can give.
    """

    def __init__(self, tiled: Tiled, frame: Frame) -> None:
        self._tiled, self._frame = tiled, frame
        self.is_sound = True

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        stitcher = self._tiled.stitcher
        columns = len(stitcher.tiling.columns)
        rows = stitcher.rows
        first, held = 0, np.zeros((rows[0].stop, stitcher.map_size[1]), np.float32)
        for number, answers in self._tiled.answers(self._frame):
            self.is_sound = self.is_sound and self._tiled.is_sound(answers)
            for offset, one in enumerate(answers.maps):
                row = rows[(number + offset) // columns]
                if row.start > first:  # no later tile reaches the rows above
                    yield first, held[: row.start - first]
                    held = held[row.start - first :]
                    first = row.start
                if row.stop > first + len(held):
                    more = np.zeros((row.stop - first - len(held), held.shape[1]), np.float32)
                    held = np.concatenate([held, more])
                stitcher.add(held, number + offset, one[None], first)
        yield first, held


class Tiled(ClosesOnExit):
    """Runs a graph on a frame's tiles and returns the frame's map, whose maximum is the score.

    The score is NaN if the answer for one tile is not one that the method can give: stitching omits
    the edges of tiles, and would hide an error there.

    It is as thread-safe as the backend of the graph. It needs memory for one batch of tiles and one
    map, however large the frame is.

    Args:
        graph: The backend that runs the graph on tiles; it is closed with this one.
        stitcher: Cuts frames into tiles and joins their maps.
        limits: What holds of every answer of the graph; None if its declaration is not known.

    Attributes:
        graph: The backend that runs the graph on tiles.
        name: The name of that backend.
        max_batch: The number of frames that are judged at once: one, whose tiles form the batches.
    """

    max_batch = 1

    def __init__(self, graph: Backend, stitcher: Stitcher, limits: AnswerLimits | None = None) -> None:
        self.graph = graph
        self.limits = limits or AnswerLimits()
        self.name = graph.name
        self.stitcher = stitcher
        self._batch = largest_batch(graph, stitcher.tiling.batch)

    @property
    def graph_batches(self) -> set[int]:
        """The batch sizes in which the tiles of a frame go through the graph."""
        count = len(self.stitcher.tiling.rows) * len(self.stitcher.tiling.columns)
        return _parts(count, self._batch)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Judge frames, uint8 ``(N, H, W, C)``; see :class:`kdx.runtime.backend.Backend`."""
        expected = self.stitcher.tiling.frame
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:3] != expected or not len(images):
            raise BackendError(
                "the frames have another size than the one that the tiles were planned for",
                expected=f"uint8 (N, {expected[0]}, {expected[1]}, C)",
                received=f"{images.dtype} {images.shape}",
            )
        maps, scores = zip(*(self._run_one(frame) for frame in images), strict=True)
        return Outputs(np.stack(maps), np.array(scores, np.float32)[:, None])

    def _run_one(self, frame: NDArray[np.uint8]) -> tuple[NDArray[np.float32], np.float32]:
        whole, is_sound = self.stitcher.new_map(), True
        for first, answers in self.answers(frame):
            is_sound = is_sound and self.is_sound(answers)
            self.stitcher.add(whole, first, answers.maps)
        return whole, whole.max() if is_sound else np.float32(np.nan)

    def answers(self, frame: Frame) -> Iterator[tuple[int, Outputs]]:
        """Yield the number of the first tile of each batch, and the graph's answers."""
        for first, tiles in self.stitcher.batches(frame, self._batch):
            yield first, self.graph.run(tiles)

    def is_sound(self, answers: Outputs) -> bool:
        """Whether the method can give these answers of the graph."""
        return not np.isnan(self.limits.mark(answers.maps, answers.scores)).any()

    def run_in_bands(self, frame: Frame) -> Bands:
        """Return the map of a frame in bands of rows, and whether every answer was valid."""
        return Bands(self, frame)

    def close(self) -> None:
        """Free the graph."""
        self.graph.close()


def for_frames(backend: Backend, manifest: Manifest) -> Backend:
    """Return a backend for the camera's frames: the given one, or one that runs it on tiles."""
    if manifest.tiling is None:
        return backend
    tile = manifest.input.height, manifest.input.width
    return Tiled(
        backend, Stitcher(manifest.tiling, tile, manifest.map_size), answer_limits(manifest.pair, manifest.map_size)
    )


def graph_batches(backend: Backend, sizes: Iterable[int], most: int) -> list[int]:
    """Return the batch sizes in which a graph is run, ascending; one image is always among them.

    Args:
        backend: The backend, which runs the graph on tiles or on whole images.
        sizes: The numbers of images, or frames, that are judged at once.
        most: The largest batch; larger numbers of images go through in several batches.
    """
    if isinstance(backend, Tiled):
        return sorted({1, *backend.graph_batches})
    return sorted({1}.union(*(_parts(size, most) for size in sizes)))


def _parts(count: int, most: int) -> set[int]:
    """Return the sizes of the batches into which a number of images is divided."""
    return {min(count, most), count % most} - {0}


def graph_backend(backend: Backend) -> Backend:
    """Return the backend that runs the bundle's graph on the graph's own input."""
    return backend.graph if isinstance(backend, Tiled) else backend
