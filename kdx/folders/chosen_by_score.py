"""Images that were chosen by their score, such as the parts that operators review for kdx serve.

Their good ones are the good parts with the highest scores, so a threshold that is chosen as a
quantile of them would be far too high. Their rates are not those of the line, and their defective
ones are only those that kdx noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdx.remarks import Remark, remark

# A file with this name says so of the images in its folder.
CHOSEN_BY_SCORE = "CHOSEN_BY_SCORE.txt"
REMARK = "chosen_by_score"
_TEXT = (
    "[image was|images were] chosen by [its|their] score: the rates on [it|them] are not those of the line, and "
    "defects that kdx missed are not among [it|them]"
)


def where_chosen(root: Path) -> Path | None:
    """Return the folder whose images were chosen by their score: this one, or one around it."""
    here = root.resolve()
    return next((each for each in (here, *here.parents) if (each / CHOSEN_BY_SCORE).is_file()), None)


def chosen_remarks(root: Path, images: Sequence[Path]) -> list[Remark]:
    """Return a remark on images of a folder that were chosen by their score."""
    return remark(REMARK, _TEXT, images) if where_chosen(root) is not None else []
