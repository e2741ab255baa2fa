"""Synthetic defects, for choosing among detectors without photographs of defective parts.

There are three kinds, after CutPaste (Li et al., CVPR 2021, section 2.1): a patch of another good
image; a scar, which is a long, thin, rotated patch with changed brightness; and a blob of changed
brightness with a soft edge. A detector that misses them is poor, but figures measured on them
predict nothing about real defects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from kdx.errors import DataError
from kdx.folders.data_folder import GOOD
from kdx.imaging.images import InputSpec, decode_image, encode_png
from kdx.progress import SILENT, Progress, track
from kdx.storage.files import new_folder

# Shares of the image's area and of its shorter side. Every detector finds larger defects, so they
# distinguish none.
_PATCH_AREA = (0.005, 0.06)
_PATCH_ASPECT = (0.3, 3.3)
_SCAR_LENGTH = (0.10, 0.35)
_SCAR_WIDTH = (0.01, 0.03)
_BLOB_RADIUS = (0.02, 0.08)
# The change of brightness in grey levels, from hardly visible to obvious.
_PATCH_SHIFT = (0, 20)
_SHIFT = (20, 70)
_SOFT_EDGE = 0.4  # share of a blob's radius over which it fades out

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def paste_patch(image: Image, other: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Paste an upright rectangle of another image with slightly changed brightness.

    Args:
        image: The image, uint8 ``(H, W, C)``.
        other: The image that the patch is taken from; any size, the same number of channels.
        rng: The generator that decides size, place and brightness.

    Returns:
        The defective image, and the mask ``(H, W)`` of the pixels that were changed.
    """
    height, width = image.shape[:2]
    area, aspect = rng.uniform(*_PATCH_AREA) * height * width, np.exp(rng.uniform(*np.log(_PATCH_ASPECT)))
    # The patch must fit into both images.
    rows = int(np.clip(round(np.sqrt(area / aspect)), 1, min(height, other.shape[0])))
    columns = int(np.clip(round(np.sqrt(area * aspect)), 1, min(width, other.shape[1])))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    from_top, from_left = rng.integers(other.shape[0] - rows + 1), rng.integers(other.shape[1] - columns + 1)
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + rows, left : left + columns] = True
    content = np.zeros(image.shape, dtype=np.float64)
    content[mask] = other[from_top : from_top + rows, from_left : from_left + columns].reshape(rows * columns, -1)
    return _blend(image, content + _shift(content[mask], rng, _PATCH_SHIFT), mask.astype(np.float64)), mask


def draw_scar(image: Image, other: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Draw a long, thin, rotated patch, brighter or darker; see :func:`paste_patch`."""
    side = min(image.shape[:2])
    length, width = (side * rng.uniform(*share) for share in (_SCAR_LENGTH, _SCAR_WIDTH))
    along, across = _rotated_coordinates(image, rng)
    mask = (np.abs(along) <= max(length, 1) / 2) & (np.abs(across) <= max(width, 1) / 2)
    rows, columns = (np.arange(size) % limit for size, limit in zip(image.shape[:2], other.shape[:2], strict=True))
    content = other[np.ix_(rows, columns)].astype(np.float64)
    return _blend(image, content + _shift(image[mask], rng, _SHIFT), mask.astype(np.float64)), mask


def draw_blob(image: Image, other: Image, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Brighten or darken an ellipse with a soft edge; see :func:`paste_patch`."""
    del other
    side = min(image.shape[:2])
    radii = [max(side * rng.uniform(*_BLOB_RADIUS), 1.0) for _ in range(2)]
    along, across = _rotated_coordinates(image, rng)
    distance = np.hypot(along / radii[0], across / radii[1])
    weight = np.clip((1 - distance) / _SOFT_EDGE, 0, 1)
    mask = weight > 0
    return _blend(image, image.astype(np.float64) + _shift(image[mask], rng, _SHIFT), weight), mask


KINDS: dict[str, Callable[[Image, Image, np.random.Generator], tuple[Image, Mask]]] = {
    "patch": paste_patch,
    "scar": draw_scar,
    "blob": draw_blob,
}


def draw_within(
    draw: Callable[[Image, Image, np.random.Generator], tuple[Image, Mask]],
    image: Image,
    other: Image,
    rng: np.random.Generator,
    spec: InputSpec | None,
) -> tuple[Image, Mask]:
    """Draw a defect where the networks see it: in the window of the image, if there is one.

    Args:
        draw: One of :data:`KINDS`.
        image: The good image to draw on; it is not changed.
        other: Another good image.
        rng: The source of randomness.
        spec: What says which window of the image is seen; None where all of it is.

    Returns:
        The image with the defect, and the defect's mask ``(H, W)``.
    """
    if spec is None or spec.crop is UNSET:
        return draw(image, other, rng)
    x, y, width, height = spec.crop
    inside = np.s_[y : y + height, x : x + width]
    drawn, mask = image.copy(), np.zeros(image.shape[:2], bool)
    drawn[inside], mask[inside] = draw(image[inside], other[inside], rng)
    return drawn, mask


def write_synthetic(
    good: Sequence[Path], target: Path, spec: InputSpec, *, seed: int = 0, most: int = 200, progress: Progress = SILENT
) -> dict[str, Path]:
    """Write a test split in MVTec layout.

    It contains good images, and each of them with one defect of each kind and its mask.

    Args:
        good: At least two good images that were not trained on.
        target: The folder to write; an earlier one is replaced.
        spec: The channels, the 16-bit range and the window that the detector takes. Images keep
            their size.
        seed: The seed of all randomness: the same images and seed give the same files.
        most: The number of good images to use, evenly spread.
        progress: The progress display.

    Returns:
        The good image that each stem of the files' names stands for.

    Raises:
        DataError: There are fewer than two images.
        ImageError: An image cannot be read.
    """
    if len(good) < 2:
        raise DataError(
            "too few held-out good images for synthetic defects",
            expected="at least 2",
            received=str(len(good)),
            fix="add good images",
        )
    step = max(1, -(-len(good) // most))
    chosen = sorted(good)[::step]
    chosen = chosen if len(chosen) > 1 else sorted(good)[:2]

    def read(path: Path) -> Image:
        return decode_image(path, channels=spec.channels, sixteen_bit_range=spec.sixteen_bit_range)

    with new_folder(target, force=True) as folder:
        for part in (GOOD, *KINDS):
            (folder / "test" / part).mkdir(parents=True)
            if part != GOOD:
                (folder / "ground_truth" / part).mkdir(parents=True)
        for index, path in enumerate(track(progress, chosen, "drawing defects", len(chosen))):
            rng = np.random.default_rng([seed, index])
            image, name = read(path), f"{index:04d}"
            other = read(chosen[(index + 1 + int(rng.integers(len(chosen) - 1))) % len(chosen)])
            (folder / "test" / GOOD / f"{name}.png").write_bytes(encode_png(image))
            for kind, draw in KINDS.items():
                defective, mask = draw_within(draw, image, other, rng, spec)
                (folder / "test" / kind / f"{name}.png").write_bytes(encode_png(defective))
                white = np.where(mask, 255, 0).astype(np.uint8)[..., None]
                (folder / "ground_truth" / kind / f"{name}_mask.png").write_bytes(encode_png(white))
    return {f"{index:04d}": path for index, path in enumerate(chosen)}


def _rotated_coordinates(image: Image, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each pixel's coordinates along and across a random direction from a random pixel."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    # The origin is on a pixel, so that a defect narrower than a pixel still covers one.
    y -= rng.integers(height)
    x -= rng.integers(width)
    angle = rng.uniform(0, np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _shift(replaced: NDArray[np.generic], rng: np.random.Generator, levels: tuple[int, int]) -> float:
    """Return a visible change of brightness: darker on bright pixels, brighter on dark ones."""
    sign = -1.0 if float(replaced.astype(np.float64).mean()) > 127.5 else 1.0
    return sign * rng.uniform(*levels)


def _blend(image: Image, content: NDArray[np.float64], weight: NDArray[np.float64]) -> Image:
    """Blend content into an image by weight: 0 keeps the image, 1 takes the content."""
    alpha = weight[..., None]
    mixed = image * (1 - alpha) + content * alpha
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
