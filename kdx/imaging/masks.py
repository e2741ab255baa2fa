"""Defect masks: finding the mask of each image, and reading it.

Every pixel of a mask that is not zero marks a defect: a grey value, any channel, or a colour of the
palette. A mask is not scaled before that is decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from kdx.errors import DataError, ImageError
from kdx.imaging.image_files import decoding, load_upright, open_image, require_supported, without_alpha
from kdx.imaging.whole_files import require_whole

# The endings that a mask's name may add to that of its image.
_ENDINGS = ("", "_mask")
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})


@dataclass(frozen=True)
class Pairing:
    """Images and their masks.

    Attributes:
        masks: The mask of each image, or None for an image without one.
        unused: The masks that belong to no image.
    """

    masks: dict[Path, Path | None]
    unused: tuple[Path, ...]


def pair_by_name(images: Sequence[Path], masks: Sequence[Path]) -> Pairing:
    """Find the mask of each image: a file named like it, or with ``_mask``, with any suffix.

    Args:
        images: The image files.
        masks: The files that may be their masks.

    Raises:
        DataError: Two files could be the mask of one image, or one file the mask of two images.
    """
    by_stem: dict[str, list[Path]] = {}
    for mask in masks:
        by_stem.setdefault(mask.stem.lower(), []).append(mask)
    found: dict[Path, Path | None] = {}
    owners: dict[Path, Path] = {}
    for image in images:
        fitting = [mask for ending in _ENDINGS for mask in by_stem.get(image.stem.lower() + ending, [])]
        if len(fitting) > 1:
            raise DataError(
                f"two masks fit the image '{image}'",
                expected="one mask for an image",
                received=", ".join(str(mask) for mask in fitting),
                fix="remove all but one",
            )
        found[image] = fitting[0] if fitting else None
        for mask in fitting:
            if mask in owners:
                raise DataError(
                    f"the mask '{mask}' fits two images",
                    expected="names that differ in more than their suffix or case",
                    received=f"'{owners[mask]}' and '{image}'",
                    fix="rename one of the images, and its mask in the same way",
                )
            owners[mask] = image
    return Pairing(found, tuple(mask for mask in masks if mask not in owners))


def masks_beside(files: Sequence[Path]) -> frozenset[Path]:
    """Return the files that are masks of other files of their folder: ``NAME_mask`` of ``NAME``."""
    stems = {path.stem.lower() for path in files}
    return frozenset(
        path for path in files if (stem := path.stem.lower()).endswith("_mask") and stem.removesuffix("_mask") in stems
    )


def read_mask(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """Read a defect mask ``(H, W)``: pixels with a channel or palette colour other than zero.

    Args:
        path: The file.
        size: The width and height of the image, if they are known.

    Raises:
        ImageError: The file is missing, damaged, of another size than its image, in a lossy format,
            has transparent pixels, or is of a kind whose values Pillow does not read unchanged.
    """
    if not path.is_file():
        raise ImageError(
            f"the mask '{path}' is missing", fix="add the mask, or remove all masks to evaluate image scores only"
        )
    with open_image(path) as image:
        _require_lossless(path, image)
        if image.mode != "F":  # floating-point numbers need no range to be compared with zero
            require_supported(path, image)
        with decoding(path):
            require_whole(path, image)
        picture = without_alpha(path, load_upright(path, image))
        with decoding(path):
            mask = _not_zero(path, picture)
    if size is not None and mask.shape != size[::-1]:
        raise ImageError(
            f"the mask '{path}' has another size than its image",
            expected=f"{size[0]} × {size[1]} pixels",
            received=f"{mask.shape[1]} × {mask.shape[0]} pixels",
            fix="draw it on the image as it is displayed, turned by its EXIF orientation if it has one"
            if mask.shape == size
            else "draw it at the image's size",
        )
    return mask


def _not_zero(path: Path, picture: Image.Image) -> NDArray[np.bool_]:
    if picture.mode == "P":
        used = [index for _, index in picture.getcolors(256) or []]
        colours = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        is_black = [index for index in used if isinstance(index, int) and not colours[index].any()]
        if len(is_black) > 1:
            raise ImageError(
                f"the mask '{path}' has several palette entries that are black",
                expected="one black entry of the palette, for good pixels",
                received=f"black entries {', '.join(map(str, is_black[:8]))}",
                fix="save the mask as grey PNG: 0 for good pixels, 255 for defective ones",
            )
        picture = picture.convert("RGB")
    values = np.asarray(picture) != 0
    is_defective: NDArray[np.bool_] = values.any(axis=2) if values.ndim == 3 else values
    return is_defective


def _require_lossless(path: Path, image: ImageFile) -> None:
    """Check that a file's format is lossless: lossy formats put noise around every defect."""
    how = ""
    if image.format in {"JPEG", "MPO"}:
        how = "JPEG"
    elif image.format == "TIFF" and image.info.get("compression") in _LOSSY_TIFF:
        how = f"TIFF with {image.info['compression']} compression"
    elif image.format == "WEBP" and not _is_lossless_webp(path):
        how = "lossy WebP"
    if how:
        raise ImageError(
            f"the mask '{path}' is in a lossy format",
            expected="PNG, BMP, or another format that keeps values",
            received=how,
            fix="write the masks again as PNG; converting this file does not bring its values back",
        )


def _is_lossless_webp(path: Path) -> bool:
    """Whether a WebP file is in the lossless format."""
    with path.open("rb") as file:
        file.seek(12)  # after RIFF, its length, and WEBP
        while len(head := file.read(8)) == 8:
            if head[:4] in {b"VP8 ", b"VP8L"}:
                return head[:4] == b"VP8L"
            length = int.from_bytes(head[4:], "little")
            file.seek(length + length % 2, 1)
    return False
