"""Frames that show no part: a dead camera, a covered lens, a lamp that is off or too bright, half a transfer.

A score says how much an image differs from good parts *in the networks' features*, and such a frame may well score low.
So frames are looked at before they are judged. What is black, white, burnt out or of one value is told by fixed limits
and by what the bundle's golden images look like: dark-field images are nearly black, backlit ones largely white.
Calibration learns the rest from its good images, each channel for itself, see ``kdx/calibration/frame_limits.py``.
About
128 × 128 samples suffice. ``embed/src/frame.cpp`` counts the very same samples, in whole numbers as here.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

# A sensor's black is not quite 0 and its white not quite 255.
_DARK, _BRIGHT = 4, 251
# Each side is sampled at about so many places; at 255 at most.
_SAMPLES = 128
# Of a frame without a part nearly every sample is dark, or bright; a few are stuck pixels.
_NEARLY_ALL = 0.999
# An image is overexposed when more than this is burnt out, and more than twice as much as in any golden image.
_BURNT_OUT, _TIMES_GOLDEN = 0.25, 2.0


class FrameFault(str, enum.Enum):
    """What is wrong with a frame, whatever it scores.

    ``BLACK``, ``WHITE``: nearly every sample is at the sensor's black, or white. ``UNIFORM``: all samples are the same.
    ``SATURATED``: burnt out. The others compare one channel with good images: ``DARK`` and ``BRIGHT`` its mean,
    ``FLAT`` its contrast. ``NOISE``: neighbouring samples differ as much as distant ones, which is what a sensor gives
    without light. ``SMOOTH``: it varies over the frame and shows no details, as under a covered lens that lets in
    light at one side. ``PARTLY_BLACK``: more of it is black than ever, as after half a transfer.
    """

    BLACK = "black"
    WHITE = "white"
    UNIFORM = "uniform"
    SATURATED = "saturated"
    DARK = "dark"
    BRIGHT = "bright"
    FLAT = "flat"
    NOISE = "noise"
    SMOOTH = "smooth"
    PARTLY_BLACK = "partly_black"


class ChannelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one channel of a frame must be like; None sets no limit. Values as :class:`ChannelValues` has them.

    Attributes:
        darkest: Least brightness.
        brightest: Largest brightness.
        contrast: The least.
        structure: The least.
        roughness: The least.
        lit: The least.
    """

    darkest: float | None = None
    brightest: float | None = None
    contrast: float | None = None
    structure: float | None = None
    roughness: float | None = None
    lit: float | None = None


class FrameLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What frames of real parts look like.

    Attributes:
        dark: Largest share of samples at the sensor's black in a golden image.
        bright: Likewise at its white.
        channels: What calibration learned of each channel, in the graph's order; empty where it learned nothing.
        images: Good images that it learned from.
    """

    dark: float = 0.0
    bright: float = 0.0
    channels: tuple[ChannelLimits, ...] = ()
    images: int = 0


class ChannelValues(NamedTuple):
    """What is measured of one channel.

    Attributes:
        brightness: Mean of the samples, in grey levels.
        contrast: Their standard deviation, in grey levels.
        structure: 1 − the mean squared difference of neighbouring samples / that of samples two steps apart. About 0
            for the noise of a sensor; 0.5 for edges, up to 0.75 for what is smooth.
        roughness: Half the mean squared difference of neighbouring samples / the variance: 1 for noise, nearly 0 for
            gradients.
        lit: Share of samples above the sensor's black.
    """

    brightness: float
    contrast: float
    structure: float
    roughness: float
    lit: float


def limits_of(images: NDArray[np.uint8]) -> FrameLimits:
    """Return the limits that images ``(K, H, W, C)`` of real parts set."""
    shares = [_shares(_sampled(image)) for image in images]
    return FrameLimits(dark=max(dark for dark, _ in shares), bright=max(bright for _, bright in shares))


def values_of(image: NDArray[np.uint8]) -> list[ChannelValues]:
    """Return what is measured of each channel of a frame, uint8 ``(H, W, C)``."""
    samples = _sampled(image)
    return [_values(samples[..., channel]) for channel in range(samples.shape[2])]


def faults_of(image: NDArray[np.uint8], limits: FrameLimits) -> tuple[FrameFault, ...]:
    """Return what is wrong with a frame, uint8 ``(H, W, C)``; empty for nothing."""
    samples = _sampled(image)
    dark, bright = _shares(samples)
    found = []
    if samples.min() == samples.max():
        found.append(FrameFault.UNIFORM)
    if dark > max(_NEARLY_ALL, limits.dark):
        found.append(FrameFault.BLACK)
    if bright > max(_NEARLY_ALL, limits.bright):
        found.append(FrameFault.WHITE)
    elif bright > max(_BURNT_OUT, _TIMES_GOLDEN * limits.bright):
        found.append(FrameFault.SATURATED)
    for channel, limit in enumerate(limits.channels):
        found += _channel_faults(_values(samples[..., channel]), limit)
    return tuple(dict.fromkeys(found))


def _channel_faults(values: ChannelValues, limits: ChannelLimits) -> list[FrameFault]:
    above = limits.brightest is not None and values.brightness > limits.brightest
    below = {
        FrameFault.DARK: (values.brightness, limits.darkest),
        FrameFault.FLAT: (values.contrast, limits.contrast),
        FrameFault.NOISE: (values.structure, limits.structure),
        FrameFault.SMOOTH: (values.roughness, limits.roughness),
        FrameFault.PARTLY_BLACK: (values.lit, limits.lit),
    }
    found = [fault for fault, (value, least) in below.items() if least is not None and value < least]
    return [*found, FrameFault.BRIGHT] if above else found


def _sampled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[:: max(1, height // _SAMPLES), :: max(1, width // _SAMPLES)])


def _shares(samples: NDArray[np.uint8]) -> tuple[float, float]:
    dark, bright = (int(np.count_nonzero(each)) for each in (samples <= _DARK, samples >= _BRIGHT))
    return dark / samples.size, bright / samples.size


def _values(samples: NDArray[np.uint8]) -> ChannelValues:
    """Return what is measured of one channel's samples ``(h, w)``, from sums that are exact.

    A row has 255 samples at most, so its sums of squares are whole numbers below 2^24, which float32 holds.
    """
    values = samples.astype(np.float32)
    count = samples.size
    total = float(values.sum(axis=1).sum(dtype=np.float64))
    variance = (count * _squares(values) - total * total) / (count * count)
    near, far = _difference(values, 1), _difference(values, 2)
    # All the same, or too small to tell; else a pattern that repeats at every second sample.
    plain = 1.0 if near == 0.0 or max(samples.shape) <= 2 else -math.inf
    structure = 1.0 - near / far if far > 0.0 else plain
    return ChannelValues(
        brightness=total / count,
        contrast=math.sqrt(variance),
        structure=structure,
        roughness=near / (2.0 * variance) if variance > 0.0 else 1.0,
        lit=int(np.count_nonzero(samples > _DARK)) / count,
    )


def _squares(values: NDArray[np.float32]) -> float:
    return float(np.einsum("ij,ij->i", values, values).sum(dtype=np.float64))


def _difference(values: NDArray[np.float32], step: int) -> float:
    """Return the mean squared difference of samples so many steps apart, along both axes; 0 where there are none."""
    across, down = values[:, step:] - values[:, :-step], values[step:] - values[:-step]
    count = across.size + down.size
    return (_squares(across) + _squares(down)) / count if count else 0.0
