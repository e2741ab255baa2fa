"""The fixed memory of an engine: for each tensor one block on the device and one on page-locked host memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.graph_contract import INPUT, MAP, SCORE
from kdx.runtime.backend import Outputs
from kdx.runtime.tensorrt.cuda.api import CudaApi


@dataclass(frozen=True)
class Twin:
    """A tensor's memory for the largest batch; smaller batches use its beginning.

    Attributes:
        host: Page-locked, ``(largest batch, ...)``.
        pointer: On the device, as large.
    """

    host: NDArray[Any]
    pointer: int


class Buffers:
    """Allocated once, so that addresses never change: CUDA graphs replay over them, whatever the batch.

    Args:
        api: The CUDA context.
        held: Frees everything when it is closed; it holds what was allocated even where a later allocation fails.
        image_shape: ``(largest batch, H, W, C)``.
        map_shape: ``(largest batch, h, w)``.

    Attributes:
        pointers: Each tensor's address on the device, by name.
    """

    def __init__(self, api: CudaApi, held: ExitStack, image_shape: tuple[int, ...], map_shape: tuple[int, ...]) -> None:
        self._api = api
        self._image = _allocate(api, held, image_shape, np.uint8)
        self._maps = _allocate(api, held, map_shape, np.float32)
        self._scores = _allocate(api, held, (image_shape[0], 1), np.float32)
        self.image_pointer = self._image.pointer
        self.pointers = {
            INPUT: self._image.pointer,
            MAP: self._maps.pointer,
            SCORE: self._scores.pointer,
        }

    def stage(self, images: NDArray[np.uint8]) -> None:
        """Put images into page-locked memory."""
        np.copyto(self._image.host[: len(images)], images, casting="no")

    def copy_in(self, count: int, stream: int) -> None:
        """Queue the copy of so many staged images to the device."""
        self._api.copy_to_device(self._image.pointer, self._image.host[:count], stream)

    def copy_out(self, count: int, stream: int) -> None:
        """Queue the copies of so many maps and scores to the host."""
        self._api.copy_to_host(self._maps.host[:count], self._maps.pointer, stream)
        self._api.copy_to_host(self._scores.host[:count], self._scores.pointer, stream)

    def outputs(self, count: int) -> Outputs:
        """Return so many maps and scores in memory of their own: the next call overwrites this one."""
        return Outputs(self._maps.host[:count].copy(), self._scores.host[:count].copy())


def _allocate(api: CudaApi, held: ExitStack, shape: tuple[int, ...], dtype: type[np.generic]) -> Twin:
    host = api.allocate_pinned(shape, dtype)
    held.callback(api.free_pinned, host)
    pointer = api.allocate(host.nbytes)
    held.callback(api.free, pointer)
    return Twin(host, pointer)
