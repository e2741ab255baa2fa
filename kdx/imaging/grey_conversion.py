"""Counting colour images that a mono detector converts to grey, so that colour is not judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdx.errors import ImageError
from kdx.imaging.image_identity import ImageContent, content_of
from kdx.imaging.images import InputSpec, read_header
from kdx.remarks import Remark, remark

COLOUR = "colour_for_mono"
COLOUR_TEXT = "[image is in colour and is|images are in colour and are] converted to grey for this mono detector"


def grey_conversion_remarks(paths: Sequence[Path], spec: InputSpec) -> list[Remark]:
    """Return a remark on the colour images that a detector converts to grey."""
    return remark(COLOUR, COLOUR_TEXT, [path for path in paths if is_converted_to_grey(path, spec)])


def is_converted_to_grey(path: Path, spec: InputSpec) -> bool:
    """Whether a detector converts an image to grey that shows colour."""
    if spec.channels != 1:
        return False
    try:
        if read_header(path).is_grey:
            return False
        content = content_of(path)
    except ImageError:
        return False  # the error is reported where the image is read
    return isinstance(content, ImageContent) and not content.is_grey
