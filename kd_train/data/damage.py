"""Damage that is drawn into good images while a student trains on them.

A student that sees a damaged image must answer with the teacher's features of the undamaged one
(Zhang et al., DeSTSeg, CVPR 2023, section 3.1), so that it learns not to follow the teacher into
defects. The damage is drawn at the size at which the networks run.

A layer of damage is a region, filled with some content and blended with the image. Regions are
smooth random shapes, where a field of interpolated noise is high, or cracks, along its zero line.
The content is a colour with noise, a smooth texture, or another good image. Gates, ``kdx fit`` and
``kdx calibrate`` judge detectors by other kinds, which training never draws: see
:mod:`kd_train.data.synthetic`.

Everything random is decided first, image by image. Then the layers of several images are computed
together on the device of the images: on a GPU, the time goes by the number of operations, and
nothing waits for their results.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor

from kd_train.data.damage_layers import (
    BANK,
    LAYERS,
    Colour,
    Corners,
    Layer,
    Moved,
    Noise,
    Texture,
    decide_layers,
    decide_texture,
)
from kd_train.data.on_device import on_device

# The number of pixels that are computed together on a CPU: few stay in its cache, but each call
# takes its time.
_PIXELS_TOGETHER = 8 * 160 * 160
_Item = TypeVar("_Item")


class Damage:
    """Draws damage into images, and textures without an image.

    What is drawn depends on the generators that are passed and on the images' size alone.

    Args:
        colour: Whether colours may be other than grey. A mono camera delivers none.
    """

    def __init__(self, *, colour: bool) -> None:
        self.colour = colour
        bank = np.random.default_rng(0).standard_normal((BANK, BANK), dtype=np.float32)
        self._noise = torch.from_numpy(bank)

    def draw(self, images: Tensor, others: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Return damaged copies of images.

        Args:
            images: The images ``(N, C, h, w)``, with values in [0, 1].
            others: As many good images of the same size, from which regions are filled.
            generators: The generator of each image, which decides everything.
        """
        layers = [decide_layers(rng, images.shape[1:], colour=self.colour) for rng in generators]
        for number in range(LAYERS):
            some = {row: each[number] for row, each in enumerate(layers) if len(each) > number}
            if some:
                images = self._blended(images, others, some)
        return images

    def _blended(self, images: Tensor, others: Tensor, layers: dict[int, Layer]) -> Tensor:
        """Return the images with a layer in each of some rows."""
        some = list(layers.values())
        weight = _regions(some, images).mul_(_column([each.strength for each in some], images))[:, None]
        content = self._contents([(row, each.content) for row, each in layers.items()], others)
        if len(some) == len(images):
            return torch.lerp(images, content, weight.expand_as(images))
        index = on_device(np.array(list(layers), np.int64), images.device)
        chosen = images.index_select(0, index)
        return images.index_copy(0, index, torch.lerp(chosen, content, weight.expand_as(chosen)))

    def texture(self, like: Tensor, rng: np.random.Generator) -> Tensor:
        """Return a smooth random texture between two grey values, with noise.

        Args:
            like: An image ``(C, h, w)``, for its size and device.
            rng: The generator that decides everything.
        """
        return self._textures([decide_texture(rng)], like[None])[0]

    def _contents(self, contents: list[tuple[int, Colour | Texture | Moved]], others: Tensor) -> Tensor:
        """Return what fills the regions ``(K, C, h, w)`` of some rows."""

        def together(kind: type, some: list[tuple[int, Any]]) -> Tensor:
            if kind is Moved:
                return torch.stack([_moved(others[row], each) for row, each in some])
            return (self._colours if kind is Colour else self._textures)([each for _, each in some], others)

        return _in_groups(contents, lambda each: type(each[1]), together)

    def _colours(self, colours: list[Colour], like: Tensor) -> Tensor:
        values = on_device(np.stack([each.values for each in colours]), like.device)[:, :, None, None]
        return (values + self._noise_of([each.noise for each in colours], like)[:, None]).clamp_(0, 1)

    def _textures(self, textures: list[Texture], like: Tensor) -> Tensor:
        corners = [each.corners for each in textures]
        field = _in_groups(corners, len, lambda _, some: _Fields(some, like).values)
        lowest = field.amin((1, 2), keepdim=True)
        field = (field - lowest) / (field.amax((1, 2), keepdim=True) - lowest)
        low = _column([each.low for each in textures], like)
        span = _column([each.high - each.low for each in textures], like)
        textured = (low + span * field + self._noise_of([each.noise for each in textures], like)).clamp_(0, 1)
        return textured[:, None].expand(-1, like.shape[1], -1, -1)

    def _noise_of(self, pieces: Sequence[Noise], like: Tensor) -> Tensor:
        """Return pieces ``(K, h, w)`` of the bank."""
        height, width = like.shape[-2:]
        if (
            self._noise.device != like.device
            or self._noise.shape[0] < BANK + height
            or self._noise.shape[1] < BANK + width
        ):
            # Repeated, so that a piece of this size begins at any place.
            repeats = [-(-(BANK + side) // BANK) for side in (height, width)]
            self._noise = self._noise[:BANK, :BANK].to(like.device).repeat(repeats)
        cut = [self._noise[each.top : each.top + height, each.left : each.left + width] for each in pieces]
        return torch.stack(cut).mul_(_column([each.deviation for each in pieces], like))


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
        # Another image of the batch, or the same one where there is no other.
        others = {row: (row + 1 + int(generators[row].integers(max(1, len(x) - 1)))) % len(x) for row in rows}
        self._mean, self._std = self._mean.to(x.device), self._std.to(x.device)
        planes = slice(0, 1) if self._is_one_plane else slice(None)
        mean, std = self._mean[planes], self._std[planes]
        damaged = x.clone(memory_format=torch.preserve_format)
        together = max(1, _PIXELS_TOGETHER // x[0, 0].numel()) if x.device.type == "cpu" else len(rows)
        for some in (rows[start : start + together] for start in range(0, len(rows), together)):
            # Channel by channel in memory, as what is drawn: operations on mixed layouts are slow.
            images, filling = (
                torch.stack([x[row, planes] for row in each]).mul_(std).add_(mean)
                for each in (some, [others[row] for row in some])
            )
            drawn = self._damage.draw(images, filling, [generators[row] for row in some]).sub_(mean).div_(std)
            for row, image in zip(some, drawn, strict=True):
                damaged[row] = image
        return damaged


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Return one number for each image ``(K, 1, 1)``."""
    return on_device(np.array(values, np.float32), like.device)[:, None, None]


def _in_groups(
    items: Sequence[_Item], kind_of: Callable[[_Item], Any], compute: Callable[[Any, list[_Item]], Tensor]
) -> Tensor:
    """Compute items of one kind together, and return the results in the order of the items."""
    groups: dict[Any, list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(kind_of(item), []).append(place)
    parts = [compute(kind, [items[place] for place in places]) for kind, places in groups.items()]
    if len(parts) == 1:
        return parts[0]
    order = np.argsort([place for places in groups.values() for place in places])
    return torch.cat(parts).index_select(0, on_device(order, parts[0].device))


class _Fields:
    """Smooth fields: noise at the corners of equal cells, interpolated.

    Bicubic interpolation is a product of matrices.

    Args:
        corners: The noise of each field, of one number of cells.
        like: Images ``(N, C, h, w)`` of the fields' size.

    Attributes:
        values: The fields' values ``(K, h, w)``.
    """

    def __init__(self, corners: Sequence[Corners], like: Tensor) -> None:
        cells = len(corners[0]) - 1
        self._corners = on_device(np.stack(corners), like.device)
        self._rows, self._columns = (_spline(side, cells, like.device) for side in like.shape[-2:])
        self._across = self._corners @ self._columns[0].T
        self.values = self._rows[0] @ self._across

    def steepness(self) -> Tensor:
        """Return the length of the gradient by pixel ``(K, h, w)``, never zero."""
        squares = (self._rows[1] @ self._across).square_()
        squares += (self._rows[0] @ (self._corners @ self._columns[1].T)).square_()
        return squares.add_(1e-12).sqrt_()

    def levels(self, shares: Sequence[float]) -> Tensor:
        """Return the value ``(K, 1, 1)`` of each field that a share of its pixels exceeds.

        Every fourth row and column is looked at.
        """
        some = self.values[:, ::4, ::4].flatten(1)
        count = some.shape[1]
        places = [count - max(1, min(count, round(count * (1 - share)))) for share in shares]
        highest = some.topk(max(places) + 1).values
        return highest.gather(1, on_device(np.array(places, np.int64), some.device)[:, None])[:, :, None]


@functools.lru_cache(maxsize=64)
def _spline(side: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the matrix ``(side, cells + 1)`` of bicubic interpolation, and its differences."""
    weights = F.interpolate(torch.eye(cells + 1)[None, None], (side, cells + 1), mode="bicubic", align_corners=True)
    matrix = weights[0, 0]
    return matrix.to(device), torch.gradient(matrix, dim=0)[0].contiguous().to(device)


def _regions(layers: Sequence[Layer], like: Tensor) -> Tensor:
    """Return the regions ``(K, h, w)`` of some layers: 1 inside, 0 outside."""

    def kind(layer: Layer) -> tuple[bool, int]:
        return layer.around is not None, len(layer.corners)

    def together(kind: tuple[bool, int], some: list[Layer]) -> Tensor:
        field, shares = _Fields([each.corners for each in some], like), [each.area for each in some]
        is_crack, _ = kind
        if not is_crack:  # a hard or soft edge
            inside = field.values - field.levels(shares)
            edge = _column([max(each.width, 0.1) for each in some], like)
            return inside.div_(field.steepness().mul_(edge)).clamp_(0, 1)
        width = _column([each.width + 0.5 for each in some], like)
        line = (width - field.values.abs() / field.steepness()).clamp_(0, 1)  # by the distance from the zero line
        around = _Fields([each.around for each in some if each.around is not None], like)
        return line.mul_(around.values > around.levels(shares))

    return _in_groups(layers, kind, together)


def _moved(other: Tensor, moved: Moved) -> Tensor:
    """Return another image, mirrored or not, and shifted around its borders."""
    axes = [axis for axis, is_mirrored in zip((1, 2), moved.mirrored, strict=True) if is_mirrored]
    return torch.roll(other.flip(axes) if axes else other, moved.shifts, (1, 2))
