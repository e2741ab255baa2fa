"""The region of interest: the pixels of the camera's image that may reject a part.

It is part of the post-processing after the graph, the same for every backend: the score is computed
again, by the bundle's own rule, from the pixels that count. The graph needs no additional input,
and the region can change without another export. ``embed/src/roi.cpp`` has the same definition.

A pixel of the map counts if every pixel of the camera's image that it covers, in whole or in part,
is included. The map's ``h × w`` pixels divide the field of view evenly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import ROI, Manifest
from kdx.bundle.pair_spec import ScoreRule
from kdx.bundle.store import with_file
from kdx.errors import BundleError, DataError, ImageError, InputError, OptionError
from kdx.imaging.field_of_view import FieldOfView
from kdx.imaging.image_files import decoding, load_upright, open_image, upright_size, without_alpha
from kdx.imaging.images import encode_png
from kdx.imaging.resampling import any_within
from kdx.imaging.whole_files import require_whole

# In grey levels: the noise of a pixel usually stays below this limit, and variation between parts
# exceeds it.
VARIES = 4.0
_FEWEST = 5
# A proposed mask is widened by this share of the shorter side, because the position of parts varies
# a little.
_MARGIN = 0.02


class StaleCalibrationWarning(UserWarning):
    """The region of interest or the level map was changed after the calibration.

    Every verdict is undecided until the bundle is calibrated again.
    """


def why_stale(manifest: Manifest, precision: str = "fp32", runtime: str | None = None) -> str | None:
    """Return why a precision's calibration is no longer valid; None if it is valid or missing.

    Args:
        manifest: The bundle's manifest.
        precision: The precision of the graph.
        runtime: The runtime that computes the scores; BF16 and INT8 need it.
    """
    changed = manifest.changed_since(precision, runtime)
    return changed and f"{changed} was changed after the calibration: every verdict is undecided until kdx calibrate"


@dataclass(frozen=True)
class RoiFrame:
    """What the regions of interest of a detector must fit.

    Attributes:
        image_size: The height and width of the camera's image.
        map_size: The height and width of the map.
        view: The part of the image that the map covers.
        rule: How the returned map becomes the score; None if the score is not computed from it
            alone.
    """

    image_size: tuple[int, int]
    map_size: tuple[int, int]
    view: FieldOfView
    rule: ScoreRule | None

    @classmethod
    def of(cls, manifest: Manifest) -> RoiFrame:
        """Return what a bundle's regions of interest must fit."""
        camera = manifest.camera
        view = camera.view(manifest.field_of_view)
        return cls((camera.height, camera.width), manifest.camera_map_size, view, manifest.map_rule)

    def describe(self) -> str:
        """Return in words what a region must fit."""
        (height, width), (rows, columns) = self.image_size, self.map_size
        score = f"the {self.rule} of the map" if self.rule else "not of the map alone"
        window = "" if self.view.crop is None else f" of the window {','.join(map(str, self.view.crop))}"
        covered = f"{self.view.share:.3g} of each side{window}"
        return f"{width} × {height} pixels, a map of {columns} × {rows} that covers {covered}, scores: {score}"

    def roi(self, mask: object) -> Roi:
        """Return a region of interest, which may be used for any number of images.

        Args:
            mask: uint8 ``(H, W)`` of the camera's size: 255 for pixels that count, 0 for others; or
                a region of interest, which is returned.

        Raises:
            InputError: Another type, size or value; the mask includes nothing, everything, or less
                than one pixel of the map; the method's score is not computed from its map alone; or
                the region is of a detector of other images, maps or scores.
        """
        if isinstance(mask, Roi):
            if mask.frame != self:
                raise InputError(
                    "the region of interest is of another detector",
                    expected=self.describe(),
                    received=mask.frame.describe(),
                    fix="make it of its mask: detector.region_of_interest(mask)",
                )
            return mask
        if self.rule is None:
            raise InputError(
                "this method takes no region of interest: its score does not come from the returned map alone",
                expected="a method whose score is the maximum or the sum of one map, for example stpm",
                fix="train another method; kdx methods lists them",
            )
        height, width = self.image_size
        if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8 or mask.shape != self.image_size:
            received = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise InputError(
                "the region of interest does not fit the camera's image",
                expected=f"uint8 ({height}, {width}): {width} × {height} pixels, grey",
                received=received,
                fix="draw it on an image of that camera, in one channel",
            )
        invalid = np.setdiff1d(mask, (0, 255))
        if len(invalid):
            raise InputError(
                "the region of interest has other values than 0 and 255",
                expected="255 for pixels that count, 0 for others",
                received=f"{', '.join(map(str, invalid[:4]))}{' …' if len(invalid) > 4 else ''}",
                fix="multiply it by 255"
                if mask.max() == 1
                else "save it as PNG without smoothing; JPEG does not keep values",
            )
        included = mask == 255
        if included.all():
            raise InputError(
                "the region of interest excludes nothing",
                fix="use none: kdx roi BUNDLE --remove",
            )
        roi = Roi(included, self)
        if not roi.counted.any():
            left, top, right, bottom = self.view.box(width, height)
            raise InputError(
                "the region of interest includes nothing" if not included.any() else
                "no pixel of the map lies completely within the region of interest",
                expected="255 where parts may be rejected; a pixel of the map covers about "
                f"{(right - left) / self.map_size[1]:.3g} × {(bottom - top) / self.map_size[0]:.3g} of the camera's",
                fix="include larger areas, and leave a margin around parts",
            )  # fmt: skip
        return roi


@dataclass(frozen=True, eq=False)
class Roi:
    """A region of interest, checked.

    Attributes:
        included: The pixels of the camera's image that count, bool ``(H, W)``.
        frame: The images and maps that the region fits.
    """

    included: NDArray[np.bool_] = field(repr=False)
    frame: RoiFrame

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """The pixels of the map that count, bool ``(h, w)``."""
        return ~any_within(~self.included, self.frame.map_size, self.frame.view)

    @cached_property
    def _indices(self) -> NDArray[np.intp]:
        """The flat indices of the pixels that count, nine times as fast as ``counted``."""
        return np.flatnonzero(self.counted)

    def apply(
        self, maps: NDArray[np.float32], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return maps that are 0 outside the region, and scores that are computed inside it.

        A score that is not finite stays as it is: it shows an error, inside the region or outside.

        Args:
            maps: Anomaly maps, float32 ``(..., h, w)``.
            scores: Their scores, float32 ``(..., 1)``.
        """
        inside = maps.reshape(*maps.shape[:-2], -1).take(self._indices, axis=-1)
        if self.frame.rule == "max":
            own = inside.max(axis=-1, keepdims=True)
        else:
            own = inside.sum(axis=-1, keepdims=True, dtype=np.float64).astype(np.float32)
        masked = np.where(self.counted, maps, np.float32(0))
        return masked, np.where(np.isfinite(scores), own, scores)

    def is_same(self, other: Roi | None) -> bool:
        """Whether another region includes the same pixels."""
        return other is self or (other is not None and np.array_equal(self.included, other.included))


def roi_of(bundle: Bundle) -> Roi | None:
    """Return a bundle's region of interest, or None.

    Raises:
        BundleError: The stored region of interest is invalid.
    """
    if ROI not in bundle.manifest.files:
        return None
    try:
        return _decode_roi(bundle.path / ROI, bundle.read(ROI), RoiFrame.of(bundle.manifest))
    except (ImageError, InputError) as error:
        raise BundleError(
            error.message, expected=error.expected, received=error.received, fix="set it again: kdx roi BUNDLE --set"
        ) from error


def read_roi(path: Path, frame: RoiFrame) -> Roi:
    """Read a region of interest from a grey image of 8 bits: 255 for pixels that count, else 0.

    Raises:
        ImageError: The file is not readable, or is not grey.
        InputError: The mask is not valid, see :meth:`RoiFrame.roi`.
    """
    return _decode_roi(path, None, frame)


def _decode_roi(path: Path, data: bytes | None, frame: RoiFrame) -> Roi:
    with open_image(path, data) as image:
        width, height = upright_size(path, image)
        if (height, width) != frame.image_size:  # before anything is decoded
            raise InputError(
                "the region of interest has another size than the camera's image",
                expected=f"{frame.image_size[1]} × {frame.image_size[0]} pixels",
                received=f"{width} × {height} pixels",
            )
        if image.mode not in {"L", "1"}:
            raise ImageError(
                f"the region of interest '{path}' is not greyscale",
                expected="8-bit grey: 255 for pixels that count, 0 for others",
                received=image.mode,
                fix="save it as grey PNG",
            )
        with decoding(path):
            require_whole(path, image)
        picture = without_alpha(path, load_upright(path, image))
        with decoding(path):
            return frame.roi(np.asarray(picture.convert("L")))


def set_roi(bundle: Bundle, roi: Roi | None) -> Bundle:
    """Set or remove the region of interest of a bundle on disk, in one step, and return the bundle.

    Its thresholds stay, but are not valid until the bundle is calibrated in this region. A
    signature is removed.

    Args:
        bundle: The bundle.
        roi: The region of interest; None removes a stored one.

    Raises:
        BundleError: The bundle on disk was replaced meanwhile.
        OutputError: The folder that contains it is not writable.
    """
    return with_file(bundle, ROI, None if roi is None else encode_roi(roi))


def encode_roi(roi: Roi) -> bytes:
    """Return a region of interest as the content of a PNG file, which :func:`read_roi` reads."""
    return encode_png(roi.included.astype(np.uint8)[..., None] * np.uint8(255))


def propose_mask(images: Iterable[NDArray[np.uint8]], varies: float = VARIES) -> NDArray[np.uint8]:
    """Return a mask ``(H, W)`` that excludes the background, which is equal in all images.

    A pixel varies if its standard deviation over the images exceeds ``varies`` in any channel.
    Isolated pixels are removed, gaps and holes are closed, and a margin is added around what
    varies.

    Args:
        images: Images of good parts, uint8 ``(H, W, C)``, all of one size.
        varies: The smallest standard deviation of a pixel that varies, in grey levels.

    Raises:
        OptionError: An invalid limit.
        DataError: Too few images; or all pixels vary, or none does.
    """
    from scipy.ndimage import binary_closing, binary_dilation, binary_fill_holes, binary_opening

    if not (math.isfinite(varies) and varies > 0):
        raise OptionError("invalid `varies`", expected="above 0 grey levels", received=f"{varies:g}")
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for image in images:
        values = image.astype(np.float64)
        count, total, squares = count + 1, total + values, squares + values * values
    if count < _FEWEST:
        raise DataError(
            "too few images to detect what never varies", expected=f"at least {_FEWEST}", received=str(count)
        )
    deviation = np.sqrt(np.clip(squares / count - (total / count) ** 2, 0, None)).max(axis=2)
    margin = max(1, round(_MARGIN * min(deviation.shape)))
    square = np.ones((2 * margin + 1, 2 * margin + 1), bool)
    # Padded, because closing treats what lies beyond an edge as background and would erode parts
    # that reach it.
    varied = np.pad(binary_opening(deviation > varies), 2 * margin, mode="edge")
    varied = binary_fill_holes(binary_closing(varied, square))[2 * margin : -2 * margin, 2 * margin : -2 * margin]
    included = binary_dilation(varied, square)
    if not included.any() or included.all():
        raise DataError(
            "everything in these images varies: there is no background to exclude" if included.any() else
            "nothing in these images varies: they show no parts",
            received=f"a standard deviation over {count} images of {deviation.min():.3g} to {deviation.max():.3g} grey "
            f"levels, compared with {varies:g}",
            fix="change `varies`, or draw the region by hand: kdx roi BUNDLE --set PNG",
        )  # fmt: skip
    mask: NDArray[np.uint8] = included.astype(np.uint8) * np.uint8(255)
    return mask
