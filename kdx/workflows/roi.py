"""Proposing a region of interest from good images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdx.decision.roi import encode_roi, propose_mask
from kdx.errors import ImageError
from kdx.folders.data_folder import require_good
from kdx.imaging.images import read_image
from kdx.progress import track
from kdx.storage.files import write_atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdx.bundle.bundle import Bundle
    from kdx.decision.roi import Roi
    from kdx.folders.data_folder import ImageFolder
    from kdx.progress import Progress


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
        for path in track(progress, paths, "looking for what varies", len(paths)):
            try:
                yield read_image(path, bundle.manifest.camera)
            except ImageError as error:
                bad[str(path)] = error.message
                if len(bad) > max_bad_images:
                    raise

    return propose_mask(images(), varies)


def write_proposal(output: Path, roi: Roi) -> None:
    """Write a region of interest as an image, to be looked at and then set."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, encode_roi(roi))
