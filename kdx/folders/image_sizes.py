"""Checking that image files have the size that a detector accepts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdx.errors import ImageError
from kdx.imaging.images import InputSpec, read_header
from kdx.remarks import shorten
from kdx.text import agreeing


def require_size(paths: Sequence[Path], spec: InputSpec, max_bad_images: int = 0) -> None:
    """Check that images have the size that a detector accepts, before long inference.

    Args:
        paths: The image files.
        spec: The input that the detector accepts.
        max_bad_images: The number of images that may have another size.

    Raises:
        ImageError: More images than allowed have another size; the message names some.
    """
    if not spec.fixed_size:
        return
    wrong: list[str] = []
    for path in paths:
        try:
            header = read_header(path)
        except ImageError:
            continue  # counted where it is read
        if (header.height, header.width) != (spec.height, spec.width):
            wrong.append(f"'{path}' ({header.width} × {header.height})")
    if len(wrong) > max_bad_images:
        raise ImageError(
            agreeing(len(wrong), f"{len(wrong)} of {len(paths)} images [has|have] the wrong size"),
            expected=f"{spec.width} × {spec.height} pixels",
            received=shorten(wrong),
            fix="use images from the same camera, or export the bundle for this one (kdx export --input-size)",
        )
