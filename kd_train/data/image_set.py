"""Decoded images or tiles, read by worker processes and kept in memory if they fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd_train.data.image_records import BadImages, ImageRecord, last_change
from kdx.errors import ImageError, TrainingError
from kdx.imaging.images import InputSpec, decode_file
from kdx.imaging.tiling import plan_tiles
from kdx.imaging.value_range import ValueRange, warn_if_narrow
from kdx.progress import SILENT, Progress
from kdx.storage.files import sha256_if_readable


@dataclass(frozen=True)
class Cuts:
    """The images that are cut from one file.

    A whole image is a single cut at the upper left corner.

    Attributes:
        record: The file's record.
        spec: The size and channels at which the file is read.
        size: The height and width of each cut.
        corners: The row and column of each cut's upper left corner.
    """

    record: ImageRecord
    spec: InputSpec
    size: tuple[int, int]
    corners: tuple[tuple[int, int], ...] = ((0, 0),)

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.record.path

    def read(self) -> tuple[NDArray[np.uint8], ValueRange | None]:
        """Return the images ``(K, H, W, C)`` and the range of the file's 16-bit values.

        Raises:
            ImageError: The file cannot be read, or has another content than when it was scanned.
        """
        is_touched = self.record.changed is not None and last_change(self.path) not in {None, self.record.changed}
        if is_touched and sha256_if_readable(self.path) != self.record.sha256:  # a copy of it is as good
            raise ImageError(f"'{self.path}' was replaced by another image")
        whole, levels, _ = decode_file(self.path, self.spec)
        height, width = self.size
        return np.stack([whole[row : row + height, column : column + width] for row, column in self.corners]), levels


def cuts_of(record: ImageRecord, spec: InputSpec, *, tiles: bool) -> Cuts:
    """Return a file's cuts: the whole image, or as few tiles of the spec's size as cover it."""
    size = (spec.height, spec.width)
    if not tiles:
        return Cuts(record, spec, size)
    plan = plan_tiles((record.height, record.width), size, overlap=0, halo=0)
    whole = msgspec.structs.replace(spec, height=record.height, width=record.width)
    return Cuts(record, whole, size, tuple((row, column) for row in plan.rows for column in plan.columns))


# The index of a file; its images, or the reason why it cannot be read; and the range of its 16-bit
# values. The main process warns of that range: warnings of a worker process would be lost.
Decoded = tuple[int, NDArray[np.uint8] | str, ValueRange | None]


class _DecodedFiles(Dataset[Any]):
    """The decoded content of files by index."""

    def __init__(self, files: Sequence[Cuts]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Decoded:
        try:
            return index, *self.files[index].read()
        except ImageError as error:
            return index, error.message, None


def decode_images(files: Sequence[Cuts], *, batch_size: int, workers: int) -> Iterator[list[Decoded]]:
    """Decode files in worker processes, in order.

    A file that cannot be read yields the reason instead of pixels.
    """
    # PyTorch passes tensors between processes through shared memory; arrays in lists are sent as
    # plain bytes.
    loader = DataLoader(_DecodedFiles(files), batch_size=batch_size, num_workers=workers, collate_fn=list)
    yield from loader


class ImageSet:
    """Decoded images by index: kept in memory if they fit, otherwise decoded again in every epoch.

    Args:
        records: The files. Damaged files are removed from :attr:`records`.
        spec: The size and channels of the images, or of the tiles that are cut from them.
        bad: The record of damaged files.
        memory_mib: The memory in MiB that the pixels may take; less than 0 if others took more.
        workers: The number of decoding processes; 0 decodes in this process.
        tiles: Whether each file is cut into tiles.
        progress: The progress display.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        spec: InputSpec,
        bad: BadImages,
        *,
        memory_mib: float,
        workers: int,
        tiles: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        self.spec = spec
        self.workers = workers
        files = [cuts_of(record, spec, tiles=tiles) for record in records]
        shape = (sum(len(file.corners) for file in files), spec.height, spec.width, spec.channels)
        self.in_memory = int(np.prod(shape)) <= memory_mib * 2**20
        pixels = np.empty(shape, dtype=np.uint8) if self.in_memory else None
        good: list[ImageRecord] = []
        self._images: list[Cuts] = []  # one entry for each image
        # A few images are decoded before worker processes would have started.
        workers = workers if len(records) > 64 else 0
        with progress.task("decoding images", len(records)) as task:
            for batch in decode_images(files, batch_size=1 if tiles else 16, workers=workers):
                for index, images, levels in batch:
                    if isinstance(images, str):
                        bad.add(records[index].path, images)
                        continue
                    warn_if_narrow(records[index].path, levels)
                    if pixels is not None:
                        pixels[len(self._images) : len(self._images) + len(images)] = images
                    file = files[index]
                    self._images += [Cuts(file.record, file.spec, file.size, (corner,)) for corner in file.corners]
                    good.append(records[index])
                task.advance(len(batch))
        self.records = good
        # One array an image, so that other sets hold the same pixels without a copy.
        self._pixels = None if pixels is None else list(pixels[: len(self._images)])
        self._rows = list(range(len(self._images)))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def pixel_bytes(self) -> int:
        """The bytes that the pixels of all images take, or would take, in memory."""
        return len(self._images) * self.spec.height * self.spec.width * self.spec.channels

    @staticmethod
    def joined(sets: Sequence[ImageSet]) -> ImageSet:
        """Return sets of one size as one, without a copy of pixels.

        A file that is in several of the sets counts once. The pixels are kept if each set keeps its
        own.
        """
        whole = copy.copy(sets[0])
        whole.records, whole._images = [], []
        whole.in_memory = all(each.in_memory for each in sets)
        pixels: list[NDArray[np.uint8]] = []
        for each in sets:
            known = {image.path for image in whole._images}
            rows = [row for row in each._rows if each._images[row].path not in known]
            whole._images += [each._images[row] for row in rows]
            whole.records += [record for record in each.records if record.path not in known]
            if whole.in_memory and each._pixels is not None:
                pixels += [each._pixels[row] for row in rows]
        whole._pixels = pixels if whole.in_memory else None
        whole._rows = list(range(len(whole._images)))
        return whole

    @property
    def different(self) -> int:
        """The number of different images: a subset may hold an image several times."""
        return len(set(self._rows))

    def subset(self, records: Sequence[ImageRecord]) -> ImageSet:
        """Return the images of some of the records, in their order; both sets share the pixels."""
        positions: dict[Path, list[int]] = {}
        for row in self._rows:
            positions.setdefault(self._images[row].path, []).append(row)
        part = copy.copy(self)
        part.records = list(records)
        part._rows = [row for record in records for row in positions[record.path]]
        return part

    def at(self, indices: Sequence[int]) -> ImageSet:
        """Return the images at some indices, in their order; both sets share the pixels."""
        part = copy.copy(self)
        part._rows = [self._rows[index] for index in indices]
        files = set(part.files)
        part.records = [record for record in self.records if record.path in files]
        return part

    @property
    def files(self) -> list[Path]:
        """The file of each image; tiles of one file repeat it."""
        return [self._images[row].path for row in self._rows]

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return one image ``(H, W, C)``.

        Raises:
            TrainingError: It can no longer be read.
        """
        row = self._rows[index]
        if self._pixels is not None:
            pixels: NDArray[np.uint8] = self._pixels[row]
            return pixels
        try:
            images, _ = self._images[row].read()
        except ImageError as error:
            raise _changed(error.message) from error
        image: NDArray[np.uint8] = images[0]
        return image

    def spread(self, most: int) -> range:
        """Return the indices of up to ``most`` images, evenly spread."""
        return range(0, len(self), max(1, -(-len(self) // most)))

    def batches(self, indices: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Yield uint8 batches ``(B, H, W, C)`` for lists of indices."""
        if self._pixels is not None:
            for batch in indices:
                yield torch.from_numpy(np.stack([self._pixels[self._rows[index]] for index in batch]))
            return
        loader = DataLoader(
            _DecodedFiles([self._images[row] for row in self._rows]),
            batch_sampler=[list(batch) for batch in indices],
            num_workers=self.workers,
            collate_fn=_join,
        )
        yield from loader

    def vary(self, x: Tensor, indices: Sequence[int]) -> Tensor:
        """Return a preprocessed batch ``(N, 3, h, w)`` as it is: these images have no variants."""
        del indices
        return x


def _join(batch: list[Decoded]) -> Tensor:
    for _, images, _ in batch:
        if isinstance(images, str):
            raise _changed(images)
    return torch.from_numpy(np.concatenate([images for _, images, _ in batch]))


def _changed(reason: str) -> TrainingError:
    return TrainingError(f"an image changed during training: {reason}")
