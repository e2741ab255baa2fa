"""Images for training: found, hashed, split, decoded in worker processes, kept in memory when they fit."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdx.errors import DataError, ImageError, TrainingError
from kdx.files import sha256_bytes
from kdx.images import InputSpec, image_facts, read_image
from kdx.progress import SILENT, Progress, track


@dataclass(frozen=True)
class ImageRecord:
    """An image file that can be used.

    Attributes:
        path: Where it is.
        sha256: Hash of the file's content.
        width: In pixels.
        height: In pixels.
        is_grey: Whether the file is grey.
    """

    path: Path
    sha256: str
    width: int
    height: int
    is_grey: bool


class BadImages:
    """Images that could not be used: named, counted, and fatal past a limit.

    Args:
        limit: How many are passed over.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: dict[Path, str] = {}

    def add(self, path: Path, reason: str) -> None:
        """Note one.

        Raises:
            TrainingError: There are more than the limit.
        """
        self.reasons[path] = reason
        if len(self.reasons) > self.limit:
            listed = "; ".join(list(self.reasons.values())[:5])
            raise TrainingError(
                f"{len(self.reasons)} images cannot be used: {listed}",
                expected=f"at most {self.limit} bad images",
                fix="repair or remove them, or allow more with --max-bad-images",
            )


def scan_images(paths: Sequence[Path], bad: BadImages, progress: Progress = SILENT) -> list[ImageRecord]:
    """Read every file's header and hash its content."""
    records: list[ImageRecord] = []
    with ThreadPoolExecutor(max_workers=4) as pool:
        for found in track(progress, pool.map(_scan_one, paths), "reading images", len(paths)):
            if isinstance(found, ImageRecord):
                records.append(found)
            else:
                bad.add(*found)
    return records


def _scan_one(path: Path) -> ImageRecord | tuple[Path, str]:
    try:
        width, height, is_grey = image_facts(path)
        return ImageRecord(path, sha256_bytes(path.read_bytes()), width, height, is_grey)
    except ImageError as error:
        return path, error.message
    except OSError as error:
        return path, f"'{path}' cannot be read: {error.strerror}"


def choose_input(
    records: Sequence[ImageRecord],
    image_size: int,
    *,
    channels: Literal["auto", "1", "3"] = "auto",
    sixteen_bit_range: tuple[int, int] = (0, 65535),
) -> InputSpec:
    """Say what the detector will accept, from the images it is trained on.

    Images of one size are a camera's: the graph takes that size and resizes. Images of many sizes are brought to the
    network's size when they are read. Grey images make a mono detector.
    """
    sizes = {(record.height, record.width) for record in records}
    fixed = len(sizes) == 1
    height, width = next(iter(sizes)) if fixed else (image_size, image_size)
    grey = all(record.is_grey for record in records) if channels == "auto" else channels == "1"
    return InputSpec(
        height=height,
        width=width,
        channels=1 if grey else 3,
        fixed_size=fixed,
        sixteen_bit_range=sixteen_bit_range,
    )


def split_images(
    records: Sequence[ImageRecord], *, validation_fraction: float, train_fraction: float, seed: int
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Split good images into training and held-out ones.

    Equal files stay on one side. ``train_fraction`` then keeps a part of the training side (STPM Table 9 uses 5 and
    10 %); the held-out side does not shrink with it.

    Raises:
        DataError: Too few images for two to train on and one to hold out.
    """
    unique = {record.sha256: record for record in records}
    ordered = sorted(unique.values(), key=lambda record: record.path.as_posix())
    order = np.random.default_rng(seed).permutation(len(ordered))
    held_out = max(1, round(validation_fraction * len(ordered)))
    training = len(ordered) - held_out
    kept = max(2, round(train_fraction * training)) if training >= 2 else training
    if kept < 2:
        raise DataError(
            "too few good images to split",
            expected="at least 2 different images to train on and 1 to hold out",
            received=f"{len(ordered)} different images, of which a validation fraction of {validation_fraction:g} "
            f"holds out {held_out}",
            fix="add good images" if len(ordered) < 3 else "add good images, or lower --validation-fraction",
        )
    train = [ordered[i] for i in sorted(order[held_out : held_out + kept])]
    return train, [ordered[i] for i in sorted(order[:held_out])]


def data_hash(hashes: Iterable[str]) -> str:
    """Return one hash over images' content hashes, whatever their order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


class _Decoding(Dataset[Any]):
    def __init__(self, paths: Sequence[Path], spec: InputSpec) -> None:
        self.paths = paths
        self.spec = spec

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, NDArray[np.uint8] | str]:
        try:
            return index, read_image(self.paths[index], self.spec)
        except ImageError as error:
            return index, error.message


def decode_images(
    paths: Sequence[Path], spec: InputSpec, *, batch_size: int, workers: int
) -> Iterator[list[tuple[int, NDArray[np.uint8] | str]]]:
    """Decode files in worker processes, in order; a file that cannot be read yields the reason instead of pixels."""
    # Torch copies tensors between processes through shared memory; arrays in lists travel as plain bytes.
    loader = DataLoader(_Decoding(paths, spec), batch_size=batch_size, num_workers=workers, collate_fn=list)
    yield from loader


class ImageSet:
    """Decoded images by index: kept in memory when they fit, otherwise decoded again in every epoch.

    Args:
        records: The files. Those that turn out to be damaged are dropped from :attr:`records`.
        spec: What they are read as.
        bad: Takes note of damaged files.
        memory_mib: Memory that the pixels may take.
        workers: Decoding processes; 0 decodes here.
        progress: Shows the decoding.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        spec: InputSpec,
        bad: BadImages,
        *,
        memory_mib: int,
        workers: int,
        progress: Progress = SILENT,
    ) -> None:
        self.spec = spec
        self.workers = workers
        size = len(records) * spec.height * spec.width * spec.channels
        self.in_memory = size <= memory_mib * 2**20
        pixels: list[NDArray[np.uint8]] = []
        good: list[ImageRecord] = []
        # Few images decode faster here than processes start.
        workers = workers if len(records) > 64 else 0
        batches = decode_images([r.path for r in records], spec, batch_size=16, workers=workers)
        with progress.task("decoding images", len(records)) as task:
            for batch in batches:
                for index, image in batch:
                    if isinstance(image, str):
                        bad.add(records[index].path, image)
                        continue
                    good.append(records[index])
                    if self.in_memory:
                        pixels.append(image)
                task.advance(len(batch))
        self.records = good
        self._pixels = torch.from_numpy(np.stack(pixels)) if pixels else None

    def __len__(self) -> int:
        return len(self.records)

    def subset(self, records: Sequence[ImageRecord]) -> ImageSet:
        """Return the images of some of the records, in their order, sharing nothing with this set."""
        positions = {record.path: index for index, record in enumerate(self.records)}
        part = copy.copy(self)
        part.records = list(records)
        if self._pixels is not None:
            part._pixels = self._pixels[[positions[record.path] for record in records]]
        return part

    def batches(self, indices: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Yield uint8 batches ``(B, H, W, C)`` for lists of indices."""
        if self._pixels is not None:
            for batch in indices:
                yield self._pixels[list(batch)]
            return
        loader = DataLoader(
            _Decoding([record.path for record in self.records], self.spec),
            batch_sampler=[list(batch) for batch in indices],
            num_workers=self.workers,
            collate_fn=_stacked,
        )
        yield from loader


def _stacked(batch: list[tuple[int, NDArray[np.uint8] | str]]) -> Tensor:
    for _, image in batch:
        if isinstance(image, str):
            raise TrainingError(f"an image changed while training: {image}")
    return torch.from_numpy(np.stack([image for _, image in batch]))
