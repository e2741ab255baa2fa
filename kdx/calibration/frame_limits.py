"""What frames of real parts look like, learned from the good images of a calibration.

See :mod:`kdx.imaging.frame_faults`.

The rule for each value of each channel: the limit is half the smallest value of a good image (for
the largest brightness, twice the largest value), or the value that one in a thousand further good
images would exceed if the logarithms were normally distributed, whichever is further away. So few
images, and images that differ much from each other, set wide limits. For the share of pixels that
are not black, the factor is four fifths instead of a half: if a quarter of the frame that was never
black turns black, it is detected. Every golden image that is a frame is within the limits too.

Rule and margins were chosen by reasoning and on the training images of three public data sets: with
50 images to learn from, 0.0 to 0.4 % of the others would be taken for frames without a part, with
200 images 0.0 to 0.2 %; that includes single images that are nearly black or blank.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.errors import ImageError
from kdx.imaging.bands import checked_pixels
from kdx.imaging.frame_faults import ChannelLimits, ChannelValues, FrameLimits, limits_of_most, values_of
from kdx.imaging.samples import are_frames, evenly
from kdx.progress import SILENT, Progress, track

# Fewer images do not show how much good ones differ.
FEWEST_IMAGES = 5
MARGIN = 2.0
LIT_MARGIN = 1.25
# Share of further good images that may exceed a limit, if their values are distributed as assumed.
_PASSES = 1e-3
_MOST_OUTLIERS = 100
# So many frames show which share of a frame is usually black or white.
_MOST_READ = 100

Frames = Sequence[Sequence[ChannelValues]]


def known_limits(bundle: Bundle, good_images: Sequence[Path], progress: Progress = SILENT) -> FrameLimits:
    """Return what is known of a bundle's frames before they are scored.

    Args:
        bundle: The bundle.
        good_images: Files of good images. They take the place of golden images that are not frames;
            those that cannot be read are skipped here, and whoever scores them reports them.
        progress: Shows every image that is read.
    """
    if _golden_frames(bundle):
        return bundle.manifest.frame_limits

    def frames() -> Iterator[NDArray[np.uint8]]:
        chosen = evenly(good_images, _MOST_READ)
        for path in track(progress, chosen, "looking at frames", len(chosen)):
            with contextlib.suppress(ImageError):
                yield checked_pixels(path, bundle.manifest.camera)

    return limits_of_most(frames())


def frame_limits_of(
    bundle: Bundle, good: Mapping[str, Sequence[ChannelValues]], known: FrameLimits
) -> tuple[FrameLimits, list[str]]:
    """Return the limits of frames of a bundle's parts, and the images that widen them.

    Args:
        bundle: The bundle. Its golden images are within the limits too, if they are frames.
        good: Values of each channel of each good image, by path.
        known: What is known of frames, see :func:`known_limits`.
    """
    golden = [values_of(image) for image in _golden_frames(bundle)]
    paths, frames = list(good), list(good.values())
    limits = learn_limits(frames, golden, known)
    return limits, [paths[index] for index in outliers_of(frames)]


def learn_limits(good: Frames, golden: Frames, known: FrameLimits) -> FrameLimits:
    """Return limits that contain every one of these frames.

    Args:
        good: Values of each channel of each good image, see
            :func:`kdx.imaging.frame_faults.values_of`.
        golden: The same values of golden images, some of which show defects; they only widen
            limits.
        known: What is known of frames, of which the shares of black and white stay.

    Returns:
        The limits; without limits of channels if there are fewer than :data:`FEWEST` images.
    """
    fixed = FrameLimits(dark=known.dark, bright=known.bright)
    if len(good) < FEWEST_IMAGES:
        return fixed
    channels = []
    for channel in range(len(good[0])):
        columns = _columns(good, channel)
        shown = _columns(golden, channel) if golden else None
        channels.append(
            ChannelLimits(
                darkest=_least(columns, shown, "brightness"),
                brightest=_most(columns, shown),
                contrast=_least(columns, shown, "contrast"),
                structure=_least(columns, shown, "structure"),
                roughness=_least(columns, shown, "roughness"),
                lit=_least(columns, shown, "lit"),
            )
        )
    return FrameLimits(dark=known.dark, bright=known.bright, channels=tuple(channels), images=len(good))


def _golden_frames(bundle: Bundle) -> Sequence[NDArray[np.uint8]]:
    """Return the golden images of a bundle ``(H, W, C)`` if they are frames, otherwise none."""
    manifest = bundle.manifest
    images = [] if manifest.tiling else list(bundle.golden().images)
    return images if are_frames(images, manifest.input, manifest.tiling) else []


def outliers_of(good: Frames) -> list[int]:
    """Return the indices of frames beyond the others' limits, at most a tenth for each value."""
    found: set[int] = set()
    if len(good) <= FEWEST_IMAGES:
        return []
    for channel in range(len(good[0])):
        columns = _columns(good, channel)
        for name, values in columns.items():
            found.update(_far_below(values, _margin(name)))
        if columns["brightness"].min() > 0:
            found.update(_far_below(1 / columns["brightness"], MARGIN))
    return sorted(found)


def _columns(frames: Frames, channel: int) -> dict[str, NDArray[np.float64]]:
    table = np.array([frame[channel] for frame in frames], np.float64)
    return dict(zip(ChannelValues._fields, table.T, strict=True))


def _margin(name: str) -> float:
    return LIT_MARGIN if name == "lit" else MARGIN


def _least(
    good: dict[str, NDArray[np.float64]], golden: dict[str, NDArray[np.float64]] | None, name: str
) -> float | None:
    """Return a lower limit; None where a good image has 0 or less, so that there is no limit."""
    limit = _limit(good[name], _margin(name))
    if limit is None or golden is None:
        return limit
    least = min(limit, float(golden[name].min()))
    return least if math.isfinite(least) else None


def _most(good: dict[str, NDArray[np.float64]], golden: dict[str, NDArray[np.float64]] | None) -> float | None:
    """Return the largest brightness; None where that is white, or a good image is wholly black."""
    lowest = _limit(1 / good["brightness"], MARGIN) if good["brightness"].min() > 0 else None
    most = max(1 / lowest if lowest else 255.0, float(golden["brightness"].max()) if golden else 0.0)
    return most if most < 255 else None


def _limit(values: NDArray[np.float64], margin: float) -> float | None:
    if not values.min() > 0:
        return None
    from scipy.stats import t as student  # its import takes longer than most commands

    logs = np.log(values)
    # A further value of a normal distribution is this many sample deviations from the mean seldom
    # enough.
    reach = float(student.ppf(1 - _PASSES, len(logs) - 1)) * math.sqrt(1 + 1 / len(logs))
    return float(min(values.min() / margin, math.exp(logs.mean() - reach * logs.std(ddof=1))))


def _far_below(values: NDArray[np.float64], margin: float) -> list[int]:
    """Return the indices of values that are below the limit that the values above them set."""
    order = np.argsort(values, kind="stable")
    ordered, found = values[order], 0
    most = min(_MOST_OUTLIERS, max(1, len(values) // 10))
    for count in range(1, 1 + min(most, len(values) - FEWEST_IMAGES)):
        limit = _limit(ordered[count:], margin)
        if limit is not None and ordered[count - 1] < limit:
            found = count
    return [int(place) for place in order[:found]]
