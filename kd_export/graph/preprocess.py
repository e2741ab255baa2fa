"""The only preprocessing: the camera's uint8 image is cast, cut, resized and normalised."""

from __future__ import annotations

import torch
from msgspec import UNSET
from torch import Tensor, nn

from kd_export.graph.banded import BandedResize, cheapest
from kdx.imaging.field_of_view import Crop
from kdx.imaging.images import InputSpec
from kdx.imaging.resampling import antialias_matrix


def resize(size_in: tuple[int, int], size_out: tuple[int, int], crop: tuple[int, int], channels: int) -> nn.Module:
    """Return an antialiased bilinear resize of ``(N, H, W, C)`` to ``(N, C, h, w)``, cut centrally.

    Equal to ``F.interpolate(antialias=True)`` and torchvision's centre crop. TensorRT refuses
    ``Resize(antialias=1)``; products with constant matrices run everywhere, and rows that are cut
    off are not computed.
    """
    tops = [round((full - part) / 2) for full, part in zip(size_out, crop, strict=True)]
    if size_in == size_out:
        return Planes() if crop == size_out else nn.Sequential(Planes(), CentreCrop(tops, crop))
    rows, columns = (
        antialias_matrix(source, full)[top : top + part]
        for source, full, top, part in zip(size_in, size_out, tops, crop, strict=True)
    )
    # The height is resized first.
    return BandedResize(cheapest(rows, size_in[1], crop[1]), cheapest(columns, crop[0], crop[0]), channels)


class Planes(nn.Module):
    """Separates the channels of images: ``(N, H, W, C)`` to ``(N, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(N, H, W, C)`` and return ``(N, C, H, W)``."""
        # Runtimes copy what is transposed, but not a mono image of another shape.
        return x.reshape(-1, 1, *x.shape[1:3]) if x.shape[3] == 1 else x.permute(0, 3, 1, 2)


class Window(nn.Module):
    """Cuts a window out of images ``(N, H, W, C)``.

    Args:
        crop: Its first column and row, its width and height, in pixels.
    """

    def __init__(self, crop: Crop) -> None:
        super().__init__()
        x, y, width, height = crop
        self.rows, self.columns = slice(y, y + height), slice(x, x + width)

    def forward(self, image: Tensor) -> Tensor:
        """Take ``(N, H, W, C)`` and return ``(N, h, w, C)``."""
        return image[:, self.rows, self.columns]


class CentreCrop(nn.Module):
    """Cuts a window out of ``(N, C, H, W)``."""

    def __init__(self, start: list[int], size: tuple[int, int]) -> None:
        super().__init__()
        self.rows = slice(start[0], start[0] + size[0])
        self.columns = slice(start[1], start[1] + size[1])

    def forward(self, x: Tensor) -> Tensor:
        """Take ``(N, C, H, W)`` and return ``(N, C, h, w)``."""
        return x[:, :, self.rows, self.columns]


def input_mixing(input_spec: InputSpec, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return the matrix that turns centred channels of the camera into normalised RGB channels.

    It holds ``1 / (255 std)`` of each channel and the BGR swap. For a mono camera it has one column
    if the mean is the same for all channels: they differ by a factor alone then.

    Args:
        input_spec: What comes in.
        mean: As for :class:`Preprocess`.
        std: As for :class:`Preprocess`.

    Returns:
        float32 ``(3, K)``; K is 1 or 3.
    """
    scales = torch.diag(1.0 / (255.0 * torch.tensor(std)))
    if input_spec.channels == 1 and len(set(mean)) == 1:
        return scales.sum(dim=1, keepdim=True)
    return scales.flip(1) if _is_bgr(input_spec) else scales


def _is_bgr(input_spec: InputSpec) -> bool:
    return input_spec.channels == 3 and input_spec.channel_order == "bgr"


class Preprocess(nn.Module):
    """uint8 ``(N, H, W, C)`` to the networks' float input ``(N, K, h, w)``.

    Args:
        input_spec: What comes in.
        size: Height and width of the networks' input.
        mean: Per RGB channel, of values in [0, 1], as timm declares it.
        std: The teacher's input standard deviation per RGB channel, of values in [0, 1].
        scale_is_folded: The networks' first convolutions already hold :func:`input_mixing`, see
            :func:`kd_export.graph.fold.fold_input`. K is 3 if they do not. The mean is never folded
            into a bias: the zero padding of the first convolution would then mean black instead of
            the mean.
        resize_to: Height and width to which the image is brought before ``size`` is cut from its
            centre (the dual model's 256 to 224); None: it is brought to ``size``.
    """

    mean: Tensor
    scale: Tensor | None

    def __init__(
        self,
        input_spec: InputSpec,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        scale_is_folded: bool,
        resize_to: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.window = None if input_spec.crop is UNSET else Window(input_spec.crop)
        self.resize = resize(input_spec.seen, resize_to or size, size, input_spec.channels)
        flip = _is_bgr(input_spec)
        step = -1 if flip else 1
        channels = input_mixing(input_spec, mean, std).shape[1] if scale_is_folded else 3
        self.register_buffer("mean", 255.0 * torch.tensor(mean[::step][:channels]).view(1, channels, 1, 1))
        scale = None if scale_is_folded else 1.0 / (255.0 * torch.tensor(std[::step]).view(1, 3, 1, 1))
        self.register_buffer("scale", scale)
        # Folded, the BGR swap sits in the first convolution; unfolded, it happens here.
        self.flip = flip and not scale_is_folded

    def forward(self, image: Tensor) -> Tensor:
        """Preprocess a batch, the cast first: TensorRT can only cast a uint8 network input."""
        # A mono image becomes three channels by broadcasting against the mean, unless one suffices.
        pixels = image.to(torch.float32)
        x = self.resize(pixels if self.window is None else self.window(pixels)) - self.mean
        if self.scale is not None:
            x = x * self.scale
        normalised: Tensor = x.flip(1) if self.flip else x
        return normalised
