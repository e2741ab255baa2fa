"""The region of interest of a bundle: proposed from good images, set, removed, described."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdx.bundle.manifest import SIGNATURE
from kdx.bundle.open import open_bundle
from kdx.decision.roi import VARIES, RoiFrame, encode_roi, propose_mask, read_roi, roi_of, set_roi, why_stale
from kdx.errors import ImageError, InputError
from kdx.folders.apart import require_apart_from_data
from kdx.folders.bad_images import skip_bad
from kdx.folders.data_folder import require_good
from kdx.imaging.bands import require_whole_frames
from kdx.imaging.grey_conversion import grey_conversion_remarks
from kdx.imaging.images import read_image
from kdx.loading.load import require_new_file
from kdx.progress import track
from kdx.storage.files import require_writable, write_atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdx.bundle.bundle import Bundle
    from kdx.decision.roi import Roi
    from kdx.folders.data_folder import FolderOptions, ImageFolder
    from kdx.progress import Progress
    from kdx.remarks import Remark


def propose(
    bundle: Bundle, folder: ImageFolder, varies: float, bad: dict[str, str], max_bad_images: int, progress: Progress
) -> NDArray[np.uint8]:
    """Return a mask of the pixels that vary among a folder's good images.

    Args:
        bundle: The bundle whose camera took them.
        folder: The images.
        varies: Grey levels from which on a pixel varies (standard deviation).
        bad: Takes the reason for each image that was skipped.
        max_bad_images: Images that may be skipped.
        progress: Shows the images.

    Returns:
        uint8 ``(H, W)``: 255 for pixels that vary, 0 for others.

    Raises:
        DataError: There is no good image.
        ImageError: More images than allowed are damaged.
    """
    paths = require_good(folder)

    def images() -> Iterator[NDArray[np.uint8]]:
        for number, path in enumerate(track(progress, paths, "looking for what varies", len(paths)), 1):
            try:
                yield read_image(path, bundle.manifest.camera)
            except ImageError as error:
                skip_bad(path, error, bad, max_bad_images, len(paths) - number)

    return propose_mask(images(), varies)


@dataclass(frozen=True)
class Proposal:
    """A region of interest that was proposed and written, to be looked at and then set.

    Attributes:
        path: The image that was written.
        included: The share of the camera's image that would count.
        bad: The reason for each image that was skipped.
        remarks: What was left out of the folder.
    """

    path: Path
    included: float
    bad: dict[str, str]
    remarks: tuple[Remark, ...]


def write_proposal(
    bundle: Bundle,
    data: Path,
    output: Path,
    *,
    category: str | None,
    options: FolderOptions,
    varies: float | None,
    max_bad_images: int,
    force: bool,
    progress: Progress,
) -> Proposal:
    """Propose a region of interest from the good images of a folder, and write it as an image.

    Args:
        bundle: The bundle whose camera took them.
        data: The folder.
        output: The image to write: 255 for pixels that count, 0 for others.
        category: Category of a data set that has several.
        options: Which of the folder's images are good.
        varies: Grey levels from which on a pixel varies; None for :data:`~kdx.decision.roi.VARIES`.
        max_bad_images: Images that may be skipped.
        force: Replace the output if it exists.
        progress: Shows the images.

    Raises:
        OptionError: The bundle's frames are read in bands.
        OutputError: The output exists, or lies in a bundle or a run.
        KdxError: As :func:`propose`; or the bundle's method takes no region of interest.
    """
    from kd_train.datasets import open_data

    require_whole_frames(bundle.manifest.camera, "kdx roi --from-images")
    require_new_file(output, "output", force=force)
    require_apart_from_data("the picture", output, [data], option="output")
    folder = open_data(data, category, options, progress=progress)
    bad: dict[str, str] = {}
    mask = propose(bundle, folder, VARIES if varies is None else varies, bad, max_bad_images, progress)
    roi = RoiFrame.of(bundle.manifest).roi(mask)
    _require_effect(roi)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, encode_roi(roi))
    in_grey = grey_conversion_remarks(folder.good, bundle.manifest.camera)
    return Proposal(output, float(roi.included.mean()), bad, (*folder.remarks, *in_grey))


@dataclass(frozen=True)
class RegionOfBundle:
    """The region of interest that a bundle has, and what a change of it means.

    Attributes:
        bundle: The bundle.
        roi: Its region of interest, or None.
        is_changed: Whether this call changed it.
        signature_removed: Whether that took away a signature.
    """

    bundle: Bundle
    roi: Roi | None
    is_changed: bool
    signature_removed: bool

    @property
    def shares(self) -> dict[str, float] | None:
        """The shares of the image and of the map that count; None where whole images do."""
        if self.roi is None:
            return None
        return {"image": float(self.roi.included.mean()), "map": float(self.roi.counted.mean())}

    @property
    def why_stale(self) -> str | None:
        """Why every verdict is undecided since the calibration; None where they are not."""
        return why_stale(self.bundle.manifest)

    def record(self) -> dict[str, Any]:
        """Return it as ``kdx roi --json`` prints it."""
        return {
            "bundle": str(self.bundle.path),
            "included": self.shares,
            "roi_sha256": self.bundle.manifest.roi_sha256,
            "changed": self.is_changed,
            "changed_after_calibration": self.bundle.manifest.changed_since() is not None,
            "signature_removed": self.signature_removed,
        }


def region_of(path: Path, mask: Path | None, *, remove: bool) -> RegionOfBundle:
    """Return the region of interest of a bundle, after setting or removing it where that was asked.

    Args:
        path: The bundle.
        mask: A grey image of the camera's size to set: 255 for pixels that count, 0 for others.
        remove: Let whole images count again.

    Raises:
        BundleError: The bundle is not valid, or was replaced meanwhile.
        ImageError: The mask is not readable, or is not grey.
        InputError: The mask is not valid, or only excludes what the networks do not see.
        OutputError: The folder that contains the bundle is not writable.
    """
    bundle = open_bundle(path)
    if mask is not None:
        require_whole_frames(bundle.manifest.camera, "kdx roi --set")
    was_signed = (path / SIGNATURE).is_file()
    current = roi_of(bundle)
    given = None if mask is None else read_roi(mask, RoiFrame.of(bundle.manifest))
    wanted = None if remove else given or current
    is_changed = (wanted is None) != (current is None) or (wanted is not None and not wanted.is_same(current))
    if is_changed:
        if wanted is not None:
            _require_effect(wanted)
        require_writable(path.resolve().parent)
        bundle = set_roi(bundle, wanted)
    return RegionOfBundle(bundle, wanted, is_changed, was_signed and is_changed)


def _require_effect(roi: Roi) -> None:
    """Refuse a region that would make a calibration stale and change no verdict.

    Regions for single images may be such: an object may fill the window.
    """
    if not roi.counted.all():
        return
    left, top, right, bottom = roi.frame.view.box(*roi.frame.image_size[::-1])
    raise InputError(
        "the region of interest changes nothing: it excludes only what the networks do not see",
        expected=f"0 somewhere within columns {left:g} to {right:g} and rows {top:g} to {bottom:g}",
        fix="use none: kdx roi BUNDLE --remove",
    )
