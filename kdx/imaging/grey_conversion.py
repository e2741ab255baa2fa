"""Counting colour images that a mono detector converts to grey, so that colour is not judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdx.errors import ImageError
from kdx.imaging.images import InputSpec, decode_file, read_header
from kdx.remarks import Remark, remark

COLOUR = "colour_for_mono"
COLOUR_TEXT = "[image is in colour and is|images are in colour and are] converted to grey for this mono detector"


def grey_conversion_remarks(paths: Sequence[Path], spec: InputSpec) -> list[Remark]:
    """Return a remark on the colour images that a detector converts to grey."""
    return remark(COLOUR, COLOUR_TEXT, [path for path in paths if _is_converted_to_grey(path, spec)])


def _is_converted_to_grey(path: Path, spec: InputSpec) -> bool:
    if spec.channels != 1:
        return False
    try:
        return not read_header(path).is_grey and decode_file(path, spec).loses_colour
    except ImageError:
        return False  # the error is reported where the image is read
