"""Images that a detector sees otherwise than they are: colour images, of which a mono detector sees grey ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdx.errors import ImageError
from kdx.imaging.image_identity import Facts, facts_of
from kdx.imaging.images import InputSpec, image_facts
from kdx.remarks import Remark, remark

COLOUR = "colour_for_mono"
COLOUR_TEXT = "images are in colour and are converted to grey for this mono detector"


def misfits(paths: Sequence[Path], spec: InputSpec) -> list[Remark]:
    """Return a remark on colour images that a mono detector sees in grey."""
    return remark(COLOUR, COLOUR_TEXT, [path for path in paths if loses_colour(path, spec)])


def loses_colour(path: Path, spec: InputSpec) -> bool:
    """Whether a detector sees a colour image in grey; an image whose channels are equal everywhere has no colour."""
    if spec.channels != 1:
        return False
    try:
        if image_facts(path)[2]:  # grey by its header
            return False
        facts = facts_of(path)
    except (ImageError, OSError):
        return False  # counted where it is read
    return isinstance(facts, Facts) and not facts.is_grey
