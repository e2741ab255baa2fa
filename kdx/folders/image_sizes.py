"""Whether image files have the size that a detector takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdx.errors import ImageError
from kdx.imaging.images import InputSpec, image_facts
from kdx.remarks import shorten


def require_size(paths: Sequence[Path], spec: InputSpec, max_bad_images: int = 0) -> None:
    """Check that images have the size that a detector takes, before hours of inference, and name those that do not.

    Raises:
        ImageError: More images than allowed have another size.
    """
    if not spec.fixed_size:
        return
    wrong: list[str] = []
    for path in paths:
        try:
            width, height, _ = image_facts(path)
        except ImageError:
            continue  # counted where it is read
        if (height, width) != (spec.height, spec.width):
            wrong.append(f"'{path}' ({width} × {height})")
    if len(wrong) > max_bad_images:
        raise ImageError(
            f"{len(wrong)} of {len(paths)} images have the wrong size",
            expected=f"{spec.width} × {spec.height} pixels",
            received=shorten(wrong),
            fix="use images from the same camera, or export again with --input-size",
        )
