"""Frames that show no part: a dead camera, a lamp that is off or too bright. Such a frame must never pass as good.

A score says how much an image differs from good parts *in the networks' features*, and a black frame may well score
low. So frames are looked at before they are judged, against what the bundle's golden images look like: dark-field
images are nearly black, backlit ones largely white. A few thousand samples suffice; 0.5 % of the run at 256 × 256.
``embed/src/frame.cpp`` counts the very same samples.
"""

from __future__ import annotations

import enum

import msgspec
import numpy as np
from numpy.typing import NDArray

# A sensor's black is not quite 0 and its white not quite 255.
_DARK, _BRIGHT = 4, 251
# Each side is sampled at about so many places.
_SAMPLES = 128
# Of a frame without a part nearly every sample is dark, or bright; a few are stuck pixels.
_NEARLY_ALL = 0.999
# An image is overexposed when more than this is burnt out, and more than twice as much as in any golden image.
_BURNT_OUT, _TIMES_GOLDEN = 0.25, 2.0


class FrameFault(str, enum.Enum):
    """What is wrong with a frame, whatever it scores."""

    BLACK = "black"
    WHITE = "white"
    UNIFORM = "uniform"
    SATURATED = "saturated"


class FrameLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle's golden images look like.

    Attributes:
        dark: Largest share of samples at the sensor's black in one of them.
        bright: Likewise at its white.
    """

    dark: float = 0.0
    bright: float = 0.0


def limits_of(images: NDArray[np.uint8]) -> FrameLimits:
    """Return the limits that images ``(K, H, W, C)`` of real parts set."""
    shares = [_shares(_sampled(image)) for image in images]
    return FrameLimits(dark=max(dark for dark, _ in shares), bright=max(bright for _, bright in shares))


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
    return tuple(found)


def _sampled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    return np.ascontiguousarray(image[:: max(1, height // _SAMPLES), :: max(1, width // _SAMPLES)])


def _shares(samples: NDArray[np.uint8]) -> tuple[float, float]:
    dark, bright = (int(np.count_nonzero(each)) for each in (samples <= _DARK, samples >= _BRIGHT))
    return dark / samples.size, bright / samples.size
