"""Images that cannot be read: some may be skipped, and then a command stops."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kdx.errors import ImageError, in_one_line
from kdx.remarks import Remark, remark
from kdx.text import agreeing


def skip_bad(path: Path, error: ImageError, bad: dict[str, str], most: int, later: int) -> None:
    """Skip an image that cannot be read.

    Args:
        path: The image.
        error: Why it cannot be read.
        bad: The reason for each image that cannot be read; this one is added.
        most: How many images may be skipped.
        later: How many images come after this one and are not looked at if it stops the command.

    Raises:
        ImageError: More images cannot be read than may be skipped. It is the error that was given,
            and says how many images were not looked at and how to skip this one.
    """
    bad[str(path)] = in_one_line(error)
    if len(bad) <= most:
        return
    rest = agreeing(later, f"; [the image after it was|the {later:,} images after it were] not looked at")
    raise type(error)(
        error.message + (rest if later else ""),
        expected=error.expected,
        received=error.received,
        fix=", or ".join(filter(None, ("skip such images with a larger `max_bad_images`", error.fix))),
    ) from error


def skipped_remark(reasons: Iterable[str]) -> list[Remark]:
    """Return a remark on skipped images, of which there are the reasons; none without any."""
    return remark("skipped", "[image|images] that cannot be read [was|were] skipped", reasons)
