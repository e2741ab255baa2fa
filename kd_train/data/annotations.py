"""The masks of a test split, which are checked and resampled before images are scored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdx.errors import ImageError
from kdx.folders.data_folder import TestImage
from kdx.imaging.field_of_view import FieldOfView
from kdx.imaging.images import read_header
from kdx.imaging.masks import read_mask
from kdx.imaging.resampling import any_within
from kdx.progress import SILENT, Progress
from kdx.remarks import Remark, remark


class MaskWarning(UserWarning):
    """Masks that are missing, belong to no image, or contradict their image's folder."""


@dataclass(frozen=True)
class Annotations:
    """What is unusual about a test split's masks.

    Attributes:
        defective: The number of defective images.
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
        """Return the remarks that a reader of pixel figures must know."""
        left_out = "left out of pixel AUROC and PRO"
        outside = "[mask marks|masks mark] pixels only outside the field of view, where the map cannot show them"
        marked = self.defective - len(self.without) - len(self.empty)
        large = self.large if 2 * (len(self.large) + len(self.full)) > marked else []  # a few may show large defects
        inverted = (
            "[mask marks|masks mark] more than half of their image, as most masks of this data set do: every pixel "
            "that is not black counts as defective, so masks with black defects on white must be inverted"
        )
        return [
            *remark(
                "without_mask", f"of {self.defective} defective images [has|have] no mask, {left_out}", self.without
            ),
            *remark(
                "empty_mask",
                f"[mask of a defective image marks|masks of defective images mark] no pixel, {left_out}",
                self.empty,
            ),
            *remark(
                "full_mask", "[mask of a defective image marks|masks of defective images mark] every pixel", self.full
            ),
            *remark("large_mask", inverted, large),
            *remark("mask_outside_view", outside, self.outside),
            *remark(
                "mask_of_good_image",
                f"[mask of a good image marks|masks of good images mark] pixels, {left_out}",
                self.on_good,
            ),
            *remark("unused_mask", "[mask belongs|masks belong] to no image", self.unused),
        ]


@dataclass(frozen=True)
class ReadMasks:
    """The masks of a test split, at the maps' size.

    Attributes:
        by_image: The mask ``(h, w)`` of each image that counts in pixel figures; all False for good
            images.
        annotations: What is unusual about the masks.
    """

    by_image: dict[Path, NDArray[np.bool_]]
    annotations: Annotations


def read_masks(
    test: Sequence[TestImage],
    map_size: tuple[int, int],
    view: FieldOfView,
    *,
    keeps_map: Callable[[TestImage], bool] = lambda _: True,
    unused: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> ReadMasks:
    """Read every mask and warn of unusual ones before hours of inference.

    Args:
        test: The test images.
        map_size: The height and width of a map.
        view: The part of an image that its map covers.
        keeps_map: Whether an image's map is kept; the masks of the others are only checked.
        unused: The masks that belong to no image.
        progress: The progress display.

    Warns:
        MaskWarning: Masks that are missing, belong to nothing, or contradict their image's folder.

    Raises:
        ImageError: A mask cannot be read, or has another size than its image.
    """
    nothing = np.zeros(map_size, dtype=bool)
    nothing.setflags(write=False)
    annotations = Annotations(sum(image.is_defective for image in test), unused=[str(path) for path in unused])
    by_image: dict[Path, NDArray[np.bool_]] = {}
    with progress.task("reading masks", len(test)) as task:
        for image in test:
            task.advance()
            cells = _check_mask(image, annotations, map_size, view)
            if cells is not None and keeps_map(image):
                by_image[image.path] = cells if cells.any() else nothing
    for one in annotations.remarks():
        warnings.warn(str(one), MaskWarning, stacklevel=4)
    return ReadMasks(by_image, annotations)


def _check_mask(
    image: TestImage, annotations: Annotations, map_size: tuple[int, int], view: FieldOfView
) -> NDArray[np.bool_] | None:
    """Return an image's mask at the map's size, or None if it does not count; note odd masks."""
    if image.mask is None:
        if image.is_defective:
            annotations.without.append(str(image.path))
            return None
        return np.zeros(map_size, dtype=bool)
    try:
        size = read_header(image.path)[:2]
    except ImageError:
        size = None  # an unreadable image is counted where its pixels are read
    mask = read_mask(image.mask, size)
    cells = any_within(mask, map_size, view)
    if not image.is_defective:
        if not mask.any():
            return cells
        annotations.on_good.append(str(image.path))
        return None
    if not mask.any():
        annotations.empty.append(str(image.path))
        return None
    if mask.all():
        annotations.full.append(str(image.path))
    elif 2 * np.count_nonzero(mask) > mask.size:
        annotations.large.append(str(image.path))
    if not cells.any():
        annotations.outside.append(str(image.path))
    return cells
