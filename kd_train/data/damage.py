"""Damage that is drawn into good images while a student trains on them.

A student that sees a damaged image must answer with the teacher's features of the undamaged one
(Zhang et al., DeSTSeg, CVPR 2023, section 3.1), so that it learns not to follow the teacher into
defects. The damage is drawn at the size at which the networks run.

A layer of damage is a region, filled with some content and blended with the image. Regions are
smooth random shapes, where a field of interpolated noise is high, or cracks, along its zero line.
The content is a colour with noise, a smooth texture, or another good image. Gates, ``kdx fit`` and
``kdx calibrate`` judge detectors by other kinds, which training never draws: see
:mod:`kd_train.data.synthetic`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

# The number of cells along each side of the noise that a region is made of: few for large, smooth
# regions, many for scattered ones.
_REGION_CELLS = (2, 4, 8, 16)
_CRACK_CELLS = (2, 3, 5)
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
_LAYERS = 3  # one to three in each image
_BANK = 1024  # the side of the square of noise from which pieces are taken


class Damage:
    """Draws damage into images, and textures without an image.

    What is drawn depends on the generator that is passed and on the image's size alone.

    Args:
        colour: Whether colours may be other than grey. A mono camera delivers none.
    """

    def __init__(self, *, colour: bool) -> None:
        self.colour = colour
        bank = np.random.default_rng(0).standard_normal((_BANK, _BANK), dtype=np.float32)
        self._noise = torch.from_numpy(bank)
        self._contents: tuple[Callable[[Tensor, np.random.Generator], Tensor], ...] = (
            lambda other, rng: self._colour(other, rng),
            lambda other, rng: self.texture(other, rng),
            _moved,
        )

    def draw(self, image: Tensor, other: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a damaged copy of an image.

        Args:
            image: The image ``(C, h, w)``, with values in [0, 1].
            other: Another good image of the same size, from which regions are filled.
            rng: The generator that decides everything.
        """
        for _ in range(int(rng.integers(1, _LAYERS + 1))):
            region = _crack(image, rng) if rng.random() < 0.25 else _region(image, rng)
            content = self._contents[int(rng.integers(len(self._contents)))](other, rng)
            image = torch.lerp(image, content, (region * float(rng.uniform(*_STRENGTH))).expand_as(image))
        return image

    def texture(self, like: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a smooth random texture between two grey values, with noise.

        Args:
            like: An image ``(C, h, w)``, for its size and device.
            rng: The generator that decides everything.
        """
        field = _smooth_field(like, _one_of((2, 4, 8, 16, 32), rng), rng).values
        field = (field - field.min()) / (field.max() - field.min())
        low, high = rng.random(2)
        textured: Tensor = (low + (high - low) * field + self._piece_of_noise(like, rng)).clamp(0, 1)
        return textured.expand_as(like)

    def _colour(self, like: Tensor, rng: np.random.Generator) -> Tensor:
        """Return one colour with noise, at an image's size."""
        values = rng.random(len(like)) if self.colour and rng.random() < 0.5 else np.full(len(like), rng.random())
        colour = torch.from_numpy(values.astype(np.float32)).to(like.device).view(-1, 1, 1)
        return (colour + self._piece_of_noise(like, rng)).clamp(0, 1)

    def _piece_of_noise(self, like: Tensor, rng: np.random.Generator) -> Tensor:
        """Return noise ``(h, w)`` of a random strength, taken from a random place of the bank."""
        height, width = like.shape[-2:]
        top, left = (int(start) for start in rng.integers(_BANK, size=2))
        if (
            self._noise.device != like.device
            or self._noise.shape[0] < _BANK + height
            or self._noise.shape[1] < _BANK + width
        ):
            # Repeated, so that a piece of this size begins at any place.
            repeats = [-(-(_BANK + side) // _BANK) for side in (height, width)]
            self._noise = self._noise[:_BANK, :_BANK].to(like.device).repeat(repeats)
        return self._noise[top : top + height, left : left + width] * float(rng.uniform(*_NOISE))


def training_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the generator of what training draws into an image.

    Gates draw from the seed and an index. NumPy pads such keys with zeros to four numbers, so the
    fourth keeps both apart: no draw of a gate repeats one of training.

    Args:
        seed: The seed of the training.
        epoch: The number of the epoch, from 1; 0 for what every epoch sees.
        index: The index of the image.
    """
    return np.random.default_rng((seed, epoch, index, 1))


class StudentDamage:
    """Damages a share of the images of each batch of a training.

    Args:
        share: The share of the images, from 0 to 1.
        seed: The seed of the training.
        mean: The mean of each channel, of values in [0, 1], by which the images are normalised.
        std: The standard deviation of each channel by which the images are normalised.
        colour: Whether colours may be other than grey.
    """

    def __init__(self, share: float, seed: int, mean: Sequence[float], std: Sequence[float], *, colour: bool) -> None:
        self._share, self._seed = share, seed
        self._mean, self._std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self._damage = Damage(colour=colour)
        # A grey image has three equal channels then, and so has its damage: one of them is drawn.
        self._is_one_plane = not colour and len(set(mean)) == len(set(std)) == 1

    def __call__(self, x: Tensor, indices: Sequence[int], epoch: int) -> Tensor:
        """Return a batch with damage; what is drawn depends on seed, epoch and indices alone.

        Args:
            x: The normalised images ``(N, 3, h, w)``, which are not changed.
            indices: The images' indices in the training set.
            epoch: The number of the epoch.
        """
        generators = [training_generator(self._seed, epoch, index) for index in indices]
        rows = [row for row, rng in enumerate(generators) if rng.random() < self._share]
        if not rows:
            return x
        planes = slice(0, 1) if self._is_one_plane else slice(None)
        mean, std = (each[planes].to(x.device) for each in (self._mean, self._std))
        damaged = x.clone(memory_format=torch.preserve_format)
        for row in rows:
            rng = generators[row]
            # Another image of the batch, or the same one where there is no other.
            other = (row + 1 + int(rng.integers(max(1, len(x) - 1)))) % len(x)
            # Channel by channel in memory, as what is drawn: operations on mixed layouts are slow.
            image, filling = ((x[each, planes].contiguous() * std).add_(mean) for each in (row, other))
            damaged[row] = self._damage.draw(image, filling, rng).sub_(mean).div_(std)
        return damaged


def _one_of(values: Sequence[int], rng: np.random.Generator) -> int:
    """Return what ``rng.choice`` returns, in a fifth of its time."""
    return values[int(rng.integers(len(values)))]


def _smooth_field(like: Tensor, cells: int, rng: np.random.Generator) -> _Field:
    """Return smooth noise ``(h, w)``, interpolated between normal noise at the cells' corners."""
    corners = torch.from_numpy(rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)).to(like.device)
    rows, columns = (_spline(side, cells, like.device) for side in like.shape[-2:])
    return _Field(corners, rows, columns)


class _Field:
    """A smooth field as a product of matrices: bicubic interpolation of values at corners.

    Args:
        corners: The values at the corners of the cells.
        rows: The weights of the corners at each row, and their change from row to row.
        columns: The same of the columns.

    Attributes:
        values: The field's values ``(h, w)``.
    """

    def __init__(self, corners: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]) -> None:
        self._corners, self._rows, self._columns = corners, rows, columns
        self.values = rows[0] @ corners @ columns[0].T

    def steepness(self) -> Tensor:
        """Return the length of the gradient by pixel ``(h, w)``, never zero."""
        (rows, down), (columns, right) = self._rows, self._columns
        squares = (down @ self._corners @ columns.T).square_() + (rows @ self._corners @ right.T).square_()
        return squares.add_(1e-12).sqrt_()

    def level(self, share: float) -> Tensor:
        """Return the value that a share of the pixels exceeds, by every fourth row and column."""
        some = self.values[::4, ::4].flatten()
        return some.kthvalue(max(1, min(len(some), round(len(some) * (1 - share))))).values


@functools.lru_cache(maxsize=64)
def _spline(side: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the matrix ``(side, cells + 1)`` of bicubic interpolation, and its differences."""
    weights = F.interpolate(torch.eye(cells + 1)[None, None], (side, cells + 1), mode="bicubic", align_corners=True)
    matrix = weights[0, 0].to(device)
    return matrix, torch.gradient(matrix, dim=0)[0].contiguous()


def _region(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a smooth random region ``(h, w)``: 1 inside, 0 outside, with a hard or soft edge."""
    field = _smooth_field(like, _one_of(_REGION_CELLS, rng), rng)
    inside = field.values - field.level(float(rng.uniform(*_REGION_AREA)))
    edge = float(rng.uniform(*_EDGE))
    return inside.div_(field.steepness().mul_(max(edge, 0.1))).clamp_(0, 1)


def _crack(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a thin curved line ``(h, w)``: a smooth field's zero line within a smooth region."""
    field = _smooth_field(like, _one_of(_CRACK_CELLS, rng), rng)
    distance = field.values.abs() / field.steepness()  # in pixels
    line = (float(rng.uniform(*_CRACK_WIDTH)) + 0.5 - distance).clamp_(0, 1)
    around = _smooth_field(like, 2, rng)
    return line * (around.values > around.level(float(rng.uniform(*_CRACK_AREA))))


def _moved(other: Tensor, rng: np.random.Generator) -> Tensor:
    """Return another image, mirrored or not, and shifted around its borders."""
    axes = [axis for axis in (1, 2) if rng.random() < 0.5]
    shifts = (int(rng.integers(other.shape[1])), int(rng.integers(other.shape[2])))
    return torch.roll(other.flip(axes) if axes else other, shifts, (1, 2))
