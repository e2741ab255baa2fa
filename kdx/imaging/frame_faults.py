"""Detecting frames that show no part: a dead camera, a covered lens, an incomplete transfer.

A score measures how much an image differs from good parts *in the networks' features*, so such a
frame may score low. Therefore each frame is checked before its score is used. Frames that are
black, white, overexposed or of one value are detected by fixed limits and by the bundle's golden
images, because dark-field images are nearly black and backlit ones largely white. Where golden
images are not frames but tiles or windows of them, calibration takes its good images in their
place. It learns the other limits of each channel from its good images too, see
``kdx/calibration/frame_limits.py``. About 128 × 128 samples of a frame suffice.
``embed/src/frame.cpp`` uses the same samples, and both compute exact sums.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

# The black of a sensor is slightly above 0 and its white slightly below 255.
_DARK, _BRIGHT = 4, 251
# The approximate number of samples along each side; at most 255 are taken.
_SAMPLES = 128
# A frame without a part has nearly all samples dark, or bright; the others are stuck pixels.
_NEARLY_ALL = 0.999
# An image is overexposed if more than this share of it is saturated, and more than twice that of
# any golden image.
_BURNT_OUT, _TIMES_GOLDEN = 0.25, 2.0
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class FrameFault(str, enum.Enum):
    """What is wrong with a frame, whatever its score.

    ``BLACK``, ``WHITE``: nearly every sample is at the sensor's black or white. ``UNIFORM``: all
    samples are equal. ``SATURATED``: the frame is overexposed. The other faults compare one channel
    with good images: ``DARK`` and ``BRIGHT`` its mean, ``FLAT`` its contrast. ``NOISE``:
    neighbouring samples differ as much as distant ones, as in the signal of a sensor without light.
    ``SMOOTH``: the frame varies but shows no details, as when light enters beside a covered lens.
    ``PARTLY_BLACK``: more of the frame is black than in any good image, as after an incomplete
    transfer.
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
    """The limits of one channel, in the units of :class:`ChannelValues`; None sets no limit.

    Attributes:
        darkest: The smallest brightness.
        brightest: The largest brightness.
        contrast: The smallest contrast.
        structure: The smallest structure.
        roughness: The smallest roughness.
        lit: The smallest share of samples above the sensor's black.
    """

    darkest: float | None = None
    brightest: float | None = None
    contrast: float | None = None
    structure: float | None = None
    roughness: float | None = None
    lit: float | None = None


class FrameLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that frames of real parts keep.

    Attributes:
        dark: The largest share of samples at the sensor's black in a golden image, or what
            :func:`limits_of_most` returns for frames; 1 sets no limit.
        bright: The same of samples at the sensor's white.
        channels: The limits that calibration learned for each channel, in the graph's order; empty
            without any.
        images: The number of good images that calibration learned from.
    """

    dark: _Share = 0.0
    bright: _Share = 0.0
    channels: tuple[ChannelLimits, ...] = ()
    images: int = 0


# The limits where it is not known how much of a frame is black or white.
UNKNOWN = FrameLimits(dark=1.0, bright=1.0)


class ChannelValues(NamedTuple):
    """The measured values of one channel.

    Attributes:
        brightness: The mean of the samples, in grey levels.
        contrast: The standard deviation of the samples, in grey levels.
        structure: 1 − the mean squared difference of neighbouring samples / that of samples two
            steps apart. It is about 0 for the noise of a sensor, 0.5 for edges, and up to 0.75 for
            smooth images.
        roughness: Half the mean squared difference of neighbouring samples / the variance: 1 for
            noise, nearly 0 for gradients.
        lit: The share of samples above the sensor's black.
    """

    brightness: float
    contrast: float
    structure: float
    roughness: float
    lit: float


def limits_of(images: NDArray[np.uint8]) -> FrameLimits:
    """Return the limits that images of real parts set, uint8 ``(K, H, W, C)``."""
    shares = [_shares(_sampled(image)) for image in images]
    return FrameLimits(dark=max(dark for dark, _ in shares), bright=max(bright for _, bright in shares))


def limits_of_most(images: Iterable[NDArray[np.uint8]]) -> FrameLimits:
    """Return limits that nine in ten frames keep, each uint8 ``(H, W, C)``; of no frame, no limits.

    Some of these frames may show no part, as no golden image does.
    """
    shares = [_shares(_sampled(image)) for image in images]
    if not shares:
        return UNKNOWN
    dark, bright = (sorted(each)[int(0.9 * (len(shares) - 1))] for each in zip(*shares, strict=True))
    # Where more frames than these few are nearly all black, that is how good frames look.
    dark, bright = (share if share <= _NEARLY_ALL else 1.0 for share in (dark, bright))
    return FrameLimits(dark=dark, bright=bright)


def values_of(image: NDArray[np.uint8]) -> list[ChannelValues]:
    """Return the measured values of each channel of a frame, uint8 ``(H, W, C)``."""
    samples = _sampled(image)
    return [_values(samples[..., channel]) for channel in range(samples.shape[2])]


def faults_of(image: NDArray[np.uint8], limits: FrameLimits) -> tuple[FrameFault, ...]:
    """Return the faults of a frame, uint8 ``(H, W, C)``."""
    samples = _sampled(image)
    lowest, highest = int(samples.min()), int(samples.max())
    # Most frames have no sample at either end, and need not be compared with both.
    dark, bright = _shares(samples) if lowest <= _DARK or highest >= _BRIGHT else (0.0, 0.0)
    found = []
    if lowest == highest:
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


def lasting_faults_of(image: NDArray[np.uint8], limits: FrameLimits) -> tuple[FrameFault, ...]:
    """Return the faults that no calibration changes, which limits of channels do not decide.

    Images of a calibration that have one show no part, and nothing is learned from them: the limits
    of channels are what calibration learns, and those of an earlier one are replaced.
    """
    return faults_of(image, msgspec.structs.replace(limits, channels=()))


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


def sampling_steps(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns between the samples of a frame.

    The samples of a frame's samples are these samples again.
    """
    return max(1, height // _SAMPLES), max(1, width // _SAMPLES)


def _sampled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    down, across = sampling_steps(*image.shape[:2])
    return np.ascontiguousarray(image[::down, ::across])


def _shares(samples: NDArray[np.uint8]) -> tuple[float, float]:
    dark, bright = (int(np.count_nonzero(each)) for each in (samples <= _DARK, samples >= _BRIGHT))
    return dark / samples.size, bright / samples.size


def _values(samples: NDArray[np.uint8]) -> ChannelValues:
    """Return the measured values of one channel's samples ``(h, w)``, from exact sums.

    A row has at most 255 samples, so its sums of squares are whole numbers below 2^24, which
    float32 represents.
    """
    values = samples.astype(np.float32)
    count = samples.size
    total = float(values.sum(axis=1).sum(dtype=np.float64))
    variance = (count * _squares(values) - total * total) / (count * count)
    near, far = _difference(values, 1), _difference(values, 2)
    # Equal or too few samples; otherwise, with far at 0, a pattern that repeats at every second
    # sample.
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
    """Return the mean squared difference of samples ``step`` apart along both axes, or 0."""
    across, down = values[:, step:] - values[:, :-step], values[step:] - values[:-step]
    count = across.size + down.size
    return (_squares(across) + _squares(down)) / count if count else 0.0
