"""The images on which a compact teacher learns its source: ten variants of each good image.

A teacher must also respond to what good images never show, so beside the good images it learns
from damaged ones, mirrored ones and textures. The variants are drawn from a seed whenever they are
needed, and are the same each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from kd_train.data.damage import Damage, training_generator
from kd_train.data.image_records import BadImages, scan_images
from kd_train.data.image_set import ImageSet
from kd_train.data.on_device import on_device
from kdx.errors import DataError
from kdx.folders.image_search import LeftOut, walk_parts
from kdx.imaging.images import InputSpec
from kdx.progress import Progress
from kdx.remarks import Remark

# Each good image as it is, five times damaged (twice once, three times twice), mirrored along
# either axis, and in its place a texture, as it is and damaged.
VARIANTS = 10
_TEXTURE, _DAMAGED_TEXTURE = 8, 9
_DAMAGED = {1: 1, 2: 1, 3: 2, 4: 2, 5: 2, _DAMAGED_TEXTURE: 1}  # the times that damage is drawn
_MIRRORED = {6: -1, 7: -2}  # the axis


class DistillationImages:
    """Good images in ten variants each, then further images as they are.

    It has the interface of :class:`~kd_train.data.image_set.ImageSet`. :meth:`vary` draws the
    variants into the preprocessed images.

    Args:
        good: The good images.
        further: Images of other things, or None. They are not varied.
        seed: The seed of all variants.
        mean: The mean of each channel, of values in [0, 1], by which images are normalised.
        std: The standard deviation of each channel by which images are normalised.
        colour: Whether drawn colours may be other than grey.
        memory_mib: The memory in MiB in which variants are kept; without room they are drawn again
            in each epoch.
    """

    def __init__(
        self,
        good: ImageSet,
        further: ImageSet | None,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        colour: bool,
        memory_mib: int = 0,
    ) -> None:
        self._room = memory_mib * 2**20
        self._kept: dict[int, Tensor] = {}
        self._good, self._further = good, further
        self._seed = seed
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self._damage = Damage(colour=colour)

    def __len__(self) -> int:
        return VARIANTS * len(self._good) + (len(self._further) if self._further else 0)

    def batches(self, indices: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Yield uint8 batches ``(B, H, W, C)`` of the images that the variants are made of."""
        count = VARIANTS * len(self._good)
        # The two sets read ahead on their own, so each gets the list of its own parts.
        own = [[index // VARIANTS for index in batch if index < count] for batch in indices]
        rest = [[index - count for index in batch if index >= count] for batch in indices]
        good = self._good.batches([part for part in own if part])
        further = self._further.batches([part for part in rest if part]) if self._further else iter(())
        for batch, part, other in zip(indices, own, rest, strict=True):
            pixels = [next(source) for source, chosen in ((good, part), (further, other)) if chosen]
            order = [place for place, index in enumerate(batch) if index < count]
            order += [place for place, index in enumerate(batch) if index >= count]
            yield torch.cat(pixels)[np.argsort(order)]

    def vary(self, x: Tensor, indices: Sequence[int]) -> Tensor:
        """Return a batch with each image's variant, which depends on its index alone.

        Args:
            x: The normalised images ``(N, 3, h, w)`` of these indices, which are not changed.
            indices: The indices in this set.
        """
        self._mean, self._std = self._mean.to(x.device), self._std.to(x.device)
        good = VARIANTS * len(self._good)
        rows = {row: index for row, index in enumerate(indices) if index < good and index % VARIANTS}
        if not rows:
            return x
        pixels = torch.stack([self._pixels(x[row], index) for row, index in rows.items()])
        varied = x.clone(memory_format=torch.preserve_format)
        for row, image in zip(rows, (on_device(pixels, x.device) / 255 - self._mean) / self._std, strict=True):
            varied[row] = image
        return varied

    def _pixels(self, x: Tensor, index: int) -> Tensor:
        """Return the variant of a normalised image as uint8 ``(3, h, w)``, and keep it."""
        if index not in self._kept:
            drawn = self._variant(x * self._std + self._mean, index)
            pixels = drawn.mul(255).round_().clamp_(0, 255).to(torch.uint8).cpu()
            if pixels.numel() > self._room:
                return pixels
            self._room -= pixels.numel()
            self._kept[index] = pixels
        return self._kept[index]

    def _variant(self, image: Tensor, index: int) -> Tensor:
        variant, rng = index % VARIANTS, training_generator(self._seed, 0, index)
        if variant in _MIRRORED:
            return image.flip(_MIRRORED[variant])
        # Regions are filled from the image itself, moved: another one depends on the batch.
        varied = self._damage.texture(image, rng) if variant in {_TEXTURE, _DAMAGED_TEXTURE} else image
        for _ in range(_DAMAGED.get(variant, 0)):
            varied = self._damage.draw(varied[None], image[None], [rng])[0]
        return varied


def require_images(folders: Sequence[Path]) -> None:
    """Check that folders hold images, at any depth, without reading these.

    Raises:
        DataError: A folder is missing, or holds no images.
    """
    for folder in folders:
        if next(walk_parts(folder), None) is None:
            raise DataError(f"the folder '{folder}' holds no images", expected="images, at any depth")


def read_further(
    folders: Sequence[Path], spec: InputSpec, bad: BadImages, *, memory_mib: int, workers: int, progress: Progress
) -> tuple[ImageSet | None, list[Remark]]:
    """Read further images, at any depth of some folders and of any size.

    Args:
        folders: The folders; none give no images.
        spec: The size and channels of the detector's input, to which they are brought.
        bad: The record of damaged files.
        memory_mib: The memory in MiB that the pixels may take.
        workers: The number of decoding processes.
        progress: The progress display.

    Returns:
        The images, or None without folders, and remarks on files that were left out.

    Raises:
        DataError: A folder is missing, or holds no images.
    """
    if not folders:
        return None, []
    require_images(folders)
    left_out = LeftOut()
    paths = [folder / name for folder in folders for name in walk_parts(folder, left_out)]
    # By content, so that neither names nor the order of the folders decide what is learnt.
    records = sorted(scan_images(paths, bad, progress), key=lambda record: record.sha256)
    any_size = msgspec.structs.replace(spec, fixed_size=False)
    images = ImageSet(records, any_size, bad, memory_mib=memory_mib, workers=workers, progress=progress)
    return images, left_out.remarks
