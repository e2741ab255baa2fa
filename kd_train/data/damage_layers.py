"""What damage consists of: the random choices of each layer, made before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# The number of cells along each side of the noise that a region is made of: few for large, smooth
# regions, many for scattered ones.
_REGION_CELLS = (2, 4, 8, 16)
_CRACK_CELLS = (2, 3, 5)
_TEXTURE_CELLS = (2, 4, 8, 16, 32)
# The region's share of the image's area before the blending.
_REGION_AREA = (0.005, 0.1)
# The share of the image in which a crack may run, and its width in pixels.
_CRACK_AREA = (0.05, 0.3)
_CRACK_WIDTH = (0.5, 2.5)
# The width of an edge in pixels, from hard to soft, and the weight of the content, from hardly
# visible to plain.
_EDGE = (0.0, 6.0)
_STRENGTH = (0.2, 0.95)
# The standard deviation of the noise on a colour or a texture, for values in [0, 1].
_NOISE = (0.0, 0.15)
LAYERS = 3  # one to three in each image
BANK = 1024  # the side of the square of noise from which pieces are taken

# Normal noise at the corners of square cells ``(cells + 1, cells + 1)``.
Corners: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class Noise:
    """A piece of the bank of noise: its upper left corner and its standard deviation."""

    top: int
    left: int
    deviation: float


@dataclass(frozen=True)
class Colour:
    """One colour with noise; ``values`` has one for each channel."""

    values: NDArray[np.float32]
    noise: Noise


@dataclass(frozen=True)
class Texture:
    """A smooth texture between two grey values, with noise."""

    corners: Corners
    low: float
    high: float
    noise: Noise


@dataclass(frozen=True)
class Moved:
    """Another image, mirrored or not along rows and columns, then shifted around its borders."""

    mirrored: tuple[bool, bool]
    shifts: tuple[int, int]


@dataclass(frozen=True)
class Layer:
    """A region with its content.

    Attributes:
        corners: The noise of which the region is made.
        around: Of a crack, the noise of the smooth region in which it runs; None for a region.
        area: The share of the image that the region, or the one around a crack, covers.
        width: The width in pixels of the region's edge, or of the crack.
        content: What fills the region.
        strength: The weight of the content where the region is whole.
    """

    corners: Corners
    around: Corners | None
    area: float
    width: float
    content: Colour | Texture | Moved
    strength: float


def decide_layers(rng: np.random.Generator, shape: Sequence[int], *, colour: bool) -> list[Layer]:
    """Return the layers of damage in one image.

    Args:
        rng: The generator that decides everything.
        shape: The image's shape ``(C, h, w)``.
        colour: Whether colours may be other than grey.
    """
    return [_layer(rng, shape, colour) for _ in range(int(rng.integers(1, LAYERS + 1)))]


def decide_texture(rng: np.random.Generator) -> Texture:
    """Return a texture."""
    corners = _corners(one_of(_TEXTURE_CELLS, rng), rng)
    low, high = rng.random(2)
    return Texture(corners, float(low), float(high), _noise(rng))


def one_of(values: Sequence[int], rng: np.random.Generator) -> int:
    """Return what ``rng.choice`` returns, in a fifth of its time."""
    return values[int(rng.integers(len(values)))]


def _layer(rng: np.random.Generator, shape: Sequence[int], colour: bool) -> Layer:
    around = None
    if rng.random() < 0.25:
        corners = _corners(one_of(_CRACK_CELLS, rng), rng)
        width = float(rng.uniform(*_CRACK_WIDTH))
        around = _corners(2, rng)
        area = float(rng.uniform(*_CRACK_AREA))
    else:
        corners = _corners(one_of(_REGION_CELLS, rng), rng)
        area = float(rng.uniform(*_REGION_AREA))
        width = float(rng.uniform(*_EDGE))
    return Layer(corners, around, area, width, _content(rng, shape, colour), float(rng.uniform(*_STRENGTH)))


def _content(rng: np.random.Generator, shape: Sequence[int], colour: bool) -> Colour | Texture | Moved:
    channels, height, width = shape
    kind = int(rng.integers(3))
    if kind == 0:
        values = rng.random(channels) if colour and rng.random() < 0.5 else np.full(channels, rng.random())
        return Colour(values.astype(np.float32), _noise(rng))
    if kind == 1:
        return decide_texture(rng)
    mirrored = (bool(rng.random() < 0.5), bool(rng.random() < 0.5))
    return Moved(mirrored, (int(rng.integers(height)), int(rng.integers(width))))


def _corners(cells: int, rng: np.random.Generator) -> Corners:
    return rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)


def _noise(rng: np.random.Generator) -> Noise:
    top, left = (int(start) for start in rng.integers(BANK, size=2))
    return Noise(top, left, float(rng.uniform(*_NOISE)))
