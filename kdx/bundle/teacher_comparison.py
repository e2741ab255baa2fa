"""What a compact teacher sees of defects, compared with the network that it was distilled from.

A compact teacher learns from images of good parts, and may be blind to what they never showed. So
the features of both networks are used as detectors, on held-out good images and synthetic defects.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from kdx.remarks import Remark
from kdx.text import number_of

# A compact teacher is not worse if its AUROC is at most this much lower, with 95 % confidence.
MARGIN = 0.05
# The smallest number of parts for an interval. An interval from fewer is too narrow. An image is a
# part of its own, unless it is known which images show the same part: those are not independent.
LEAST_PARTS = 20
# The smallest number for the outcome "not worse". If none of them is ranked differently, less than
# the margin of all such parts is, with 95 % confidence: 3 / 60 (the rule of three).
LEAST_TO_PASS = 60


class TeacherComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The features of a compact teacher and of one of its sources as detectors.

    Attributes:
        source: The name of the network that the teacher was distilled from.
        taps: The taps whose features are compared.
        images: The number of held-out images: files, also if tiles are cut from them.
        good: The number of good images, or of tiles.
        defects: The number of synthetic defects on these.
        auroc: The image AUROC of the compact teacher; None without defects.
        auroc_source: The image AUROC of its source; None without defects.
        interval: The 95 % confidence interval of ``auroc - auroc_source``; None for fewer than
            :data:`LEAST_PARTS` parts.
        outcome: ``worse`` or ``not worse`` than the source, or ``undecided``.
        of_other_run: Whether the images are those of the run that made the teacher, not of the run
            that uses it.
        parts: The number of parts that these images show; None if each image shows another part.
    """

    source: str
    taps: tuple[str, ...]
    images: int
    good: int
    defects: int
    auroc: float | None
    auroc_source: float | None
    interval: tuple[float, float] | None
    outcome: Literal["worse", "not worse", "undecided"]
    of_other_run: bool = False
    parts: int | None = None

    def describe(self) -> str:
        """Return a text with the figures, the numbers of images and parts, and the outcome."""
        tiles = "" if self.good == self.images else f"{number_of(self.good, '[tile|tiles]')} of "
        of_parts = "" if self.parts is None else f" of {number_of(self.parts, '[part|parts]')}"
        counts = (
            f"{tiles}{number_of(self.images, 'held-out good [image|images]')}{of_parts} and "
            f"{number_of(self.defects, 'synthetic [defect|defects]')}"
        )
        where = f"{counts} of the run that made the teacher" if self.of_other_run else counts
        if self.auroc is None or self.auroc_source is None:
            return f"not compared with {self.source}: {where} are too few"
        text = f"image AUROC {100 * self.auroc:.1f} %, of {self.source} {100 * self.auroc_source:.1f} %, on {where}"
        independent, unit = (self.images, "images") if self.parts is None else (self.parts, "parts")
        if self.interval is None:
            return f"{text}: {self.outcome}, at least {LEAST_PARTS} {unit} are needed"
        low, high = self.interval
        text += f"; difference {100 * low:+.1f} to {100 * high:+.1f} points with 95 % confidence: {self.outcome}"
        if self.outcome == "undecided" and independent < LEAST_TO_PASS:
            text += f", at least {LEAST_TO_PASS} {unit} are needed for 'not worse'"
        return text


def outcome_of(interval: tuple[float, float] | None, parts: int) -> Literal["worse", "not worse", "undecided"]:
    """Return what an interval of ``auroc - auroc_source`` says.

    Args:
        interval: The interval, or None.
        parts: The number of parts that the images show.
    """
    if interval is None:
        return "undecided"
    low, high = interval
    if low >= -MARGIN:
        return "not worse" if parts >= LEAST_TO_PASS else "undecided"
    return "worse" if high < 0 else "undecided"


def worse_teacher(comparisons: list[TeacherComparison]) -> list[Remark]:
    """Return a remark on each source than which a compact teacher is clearly worse."""
    found = []
    for each in comparisons:
        if each.outcome != "worse" or each.auroc is None or each.auroc_source is None:
            continue
        text = (
            "synthetic defects show that the compact teacher sees clearly less than its source: image AUROC "
            f"{100 * each.auroc:.1f} %, of {each.source} {100 * each.auroc_source:.1f} %; make a better one: "
            "kdx train DATA --backbone compact-l, more --teacher-epochs, or --extra-images"
        )
        found.append(Remark(kind="compact_teacher_worse", text=text, count=each.defects, first=()))
    return found
