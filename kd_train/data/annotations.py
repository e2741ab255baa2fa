"""The masks of a test split: read and checked before anything is scored, and brought to the maps' size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdx.errors import ImageError
from kdx.folders.data_folder import TestImage
from kdx.imaging.images import read_header
from kdx.imaging.masks import read_mask
from kdx.imaging.resampling import any_within
from kdx.progress import SILENT, Progress
from kdx.remarks import Remark, remark


class MaskWarning(UserWarning):
    """Masks that are missing, belong to nothing, or contradict the folder that their image lies in."""


@dataclass(frozen=True)
class Annotations:
    """What is to be said of a test split's masks.

    Attributes:
        defective: Defective images.
        without: Defective images that have no mask; pixel figures leave them out.
        empty: Defective images whose mask marks no pixel; pixel figures leave them out.
        full: Defective images whose mask marks every pixel.
        large: Defective images whose mask marks more than half of the pixels, but not all.
        outside: Defective images whose defects all lie outside what the map covers.
        on_good: Good images whose mask marks pixels; pixel figures leave them out.
        unused: Masks that belong to no image.
    """

    defective: int = 0
    without: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)
    large: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    on_good: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def remarks(self) -> list[Remark]:
        """Return what a reader of pixel figures must know."""
        left_out = "left out of pixel AUROC and PRO"
        outside = "masks mark pixels only outside the field of view, where the map cannot show them"
        marked = self.defective - len(self.without) - len(self.empty)
        large = self.large if 2 * (len(self.large) + len(self.full)) > marked else []  # a few may show large defects
        inverted = (
            "masks mark more than half of their image, as most masks of these data do: where defects are black on "
            "white, invert the masks, for whatever is not black counts as defective"
        )
        return [
            *remark("without_mask", f"of {self.defective} defective images have no mask, {left_out}", self.without),
            *remark("empty_mask", f"masks of defective images mark no pixel, {left_out}", self.empty),
            *remark("full_mask", "masks of defective images mark every pixel", self.full),
            *remark("large_mask", inverted, large),
            *remark("mask_outside_view", outside, self.outside),
            *remark("mask_of_good_image", f"masks of good images mark pixels, {left_out}", self.on_good),
            *remark("unused_mask", "masks belong to no image", self.unused),
        ]


@dataclass(frozen=True)
class ReadMasks:
    """The masks of a test split, at the maps' size.

    Attributes:
        by_image: Of each image that pixel figures may be of, its mask ``(h, w)``; of good ones nothing is defective.
        found: What is to be said of them.
    """

    by_image: dict[Path, NDArray[np.bool_]]
    found: Annotations


def read_masks(
    test: Sequence[TestImage],
    map_size: tuple[int, int],
    field_of_view: float,
    *,
    keeps_map: Callable[[TestImage], bool] = lambda _: True,
    unused: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> ReadMasks:
    """Read every mask, and warn of what is odd among them: before hours of inference.

    Args:
        test: Test images.
        map_size: Height and width of a map.
        field_of_view: Share of each side of an image, centred, that its map covers.
        keeps_map: Whether an image's map is kept; the masks of the others are only checked.
        unused: Masks that belong to no image.
        progress: Told how far it is.

    Warns:
        MaskWarning: Masks that are missing, belong to nothing, or contradict their image's folder.

    Raises:
        ImageError: A mask cannot be read, or has another size than its image.
    """
    nothing = np.zeros(map_size, dtype=bool)
    nothing.setflags(write=False)
    found = Annotations(sum(image.is_defective for image in test), unused=[str(path) for path in unused])
    by_image: dict[Path, NDArray[np.bool_]] = {}
    with progress.task("reading masks", len(test)) as task:
        for image in test:
            task.advance()
            cells = _checked(image, found, map_size, field_of_view)
            if cells is not None and keeps_map(image):
                by_image[image.path] = cells if cells.any() else nothing
    for one in found.remarks():
        warnings.warn(str(one), MaskWarning, stacklevel=4)
    return ReadMasks(by_image, found)


def _checked(
    image: TestImage, found: Annotations, map_size: tuple[int, int], field_of_view: float
) -> NDArray[np.bool_] | None:
    """Return an image's mask at the map's size, or None where pixel figures leave it out; note what is odd."""
    if image.mask is None:
        if image.is_defective:
            found.without.append(str(image.path))
            return None
        return np.zeros(map_size, dtype=bool)
    try:
        size = read_header(image.path)[:2]
    except ImageError:
        size = None  # the image is counted where it is read
    mask = read_mask(image.mask, size)
    cells = any_within(mask, map_size, field_of_view)
    if not image.is_defective:
        if not mask.any():
            return cells
        found.on_good.append(str(image.path))
        return None
    if not mask.any():
        found.empty.append(str(image.path))
        return None
    if mask.all():
        found.full.append(str(image.path))
    elif 2 * np.count_nonzero(mask) > mask.size:
        found.large.append(str(image.path))
    if not cells.any():
        found.outside.append(str(image.path))
    return cells
