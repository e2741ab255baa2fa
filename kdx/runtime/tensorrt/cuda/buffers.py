"""The fixed memory of an engine: for each tensor a block on the device and one on the host."""

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
        host: The page-locked host memory, ``(largest batch, ...)``.
        pointer: The address of the device memory of the same size.
    """

    host: NDArray[Any]
    pointer: int


class Buffers:
    """Memory that is allocated once: CUDA graphs replay over its addresses.

    Args:
        api: The CUDA context.
        resources: Frees all memory when it is closed, also if a later allocation fails.
        image_shape: The shape of the images, ``(largest batch, H, W, C)``.
        map_shape: The shape of the maps, ``(largest batch, h, w)``.

    Attributes:
        image_pointer: The address of the images on the device.
        pointers: The address of each tensor on the device, by name.
    """

    def __init__(
        self, api: CudaApi, resources: ExitStack, image_shape: tuple[int, ...], map_shape: tuple[int, ...]
    ) -> None:
        self._api = api
        self._image = _allocate(api, resources, image_shape, np.uint8)
        self._maps = _allocate(api, resources, map_shape, np.float32)
        self._scores = _allocate(api, resources, (image_shape[0], 1), np.float32)
        self.image_pointer = self._image.pointer
        self.pointers = {
            INPUT: self._image.pointer,
            MAP: self._maps.pointer,
            SCORE: self._scores.pointer,
        }

    def stage(self, images: NDArray[np.uint8]) -> None:
        """Copy images into page-locked memory."""
        np.copyto(self._image.host[: len(images)], images, casting="no")

    def copy_in(self, count: int, stream: int) -> None:
        """Queue the copy of the first ``count`` staged images to the device."""
        self._api.copy_to_device(self._image.pointer, self._image.host[:count], stream)

    def copy_out(self, count: int, stream: int) -> None:
        """Queue the copies of the first ``count`` maps and scores to the host."""
        self._api.copy_to_host(self._maps.host[:count], self._maps.pointer, stream)
        self._api.copy_to_host(self._scores.host[:count], self._scores.pointer, stream)

    def outputs(self, count: int) -> Outputs:
        """Return copies of the first ``count`` maps and scores."""
        return Outputs(self._maps.host[:count].copy(), self._scores.host[:count].copy())


def _allocate(api: CudaApi, resources: ExitStack, shape: tuple[int, ...], dtype: type[np.generic]) -> Twin:
    host = api.allocate_pinned(shape, dtype)
    resources.callback(api.free_pinned, host)
    pointer = api.allocate(host.nbytes)
    resources.callback(api.free, pointer)
    return Twin(host, pointer)
