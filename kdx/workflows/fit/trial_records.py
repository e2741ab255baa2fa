"""Records of ``kdx fit``: kept beside the runs for a second call, and reported as JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from kdx.bundle.teacher_comparison import TeacherComparison
from kdx.imaging.image_size import ImageSize, both_sides, say_size
from kdx.remarks import Remark
from kdx.runtime.machine import Machine

SCHEMA = 1

LABELLED, SYNTHETIC = "labelled test images", "synthetic defects"


class MethodSize(msgspec.Struct, frozen=True):
    """A candidate for training.

    Attributes:
        method: The method.
        size: The size at which the networks run, in pixels.
        backbone: The teacher; empty for the one that the user chose, or the method's own.
    """

    method: str
    size: ImageSize
    backbone: str = ""

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return "-".join(filter(None, (self.method, say_size(self.size), self.backbone)))

    @property
    def pair(self) -> str:
        """The method with its teacher, of any size."""
        return " ".join(filter(None, (self.method, self.backbone)))

    def __str__(self) -> str:
        return f"{self.pair} {say_size(self.size)}"

    @property
    def order(self) -> tuple[str, int, str, str]:
        """The key by which candidates are listed where nothing else decides."""
        return self.method, self.pixels, say_size(self.size), self.backbone

    @property
    def pixels(self) -> int:
        """The number of pixels that the networks see."""
        height, width = both_sides(self.size)
        return height * width


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """The latency of one image in one backend and precision, from uint8 array to verdict.

    Attributes:
        backend: The name of the backend.
        precision: The precision of the graph.
        percentile: The percentile of ``measured_ms``.
        measured_ms: Milliseconds at that percentile; None where it could not run.
        p50_ms: Median.
        max_ms: The slowest call.
        runs: Calls counted.
        error: Why it could not run, or empty.
    """

    backend: str
    precision: str
    percentile: float = 0.0
    measured_ms: float | None = None
    p50_ms: float | None = None
    max_ms: float | None = None
    runs: int = 0
    error: str = ""


class Screened(msgspec.Struct, frozen=True, kw_only=True):
    """The result of screening a candidate.

    Attributes:
        candidate: The candidate.
        outcome: ``may keep`` the budget in one precision at least; ``misses`` it in every one;
            ``failed`` to be built, exported or run; ``skipped``, because a smaller size was already
            far over the budget.
        timings: Every backend in every precision.
        reason: The reason in words, for every outcome but ``may keep``.
    """

    candidate: MethodSize
    outcome: Literal["may keep", "misses", "failed", "skipped"]
    timings: list[Timing] = []
    reason: str = ""

    @property
    def fastest(self) -> Timing | None:
        """The fastest timing by the median, which every timing has; None if nothing ran."""
        ran = [timing for timing in self.timings if timing.p50_ms is not None]
        return min(ran, key=lambda timing: timing.p50_ms or 0.0) if ran else None

    @property
    def precisions(self) -> list[str]:
        """The precisions that some backend here runs."""
        return list(dict.fromkeys(timing.precision for timing in self.timings if timing.measured_ms is not None))


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """How well defects are distinguished from good parts: shares from 0 to 1, or None.

    Attributes:
        good: Good images.
        defective: Defective images, each synthetic kind counted.
        image_auroc: Area under the ROC curve of the images' scores.
        image_auroc_error: One standard error of ``image_auroc``, for samples of as many images.
            Labelled images count as independent; synthetic defects on images of one part do not.
        pixel_auroc: Area under the ROC curve of the maps' pixels; None without masks.
        pro: Per-region overlap; None without masks.
        false_reject_rate: Share of good images rejected at the calibrated threshold; None for
            images that it was calibrated on.
        detection_rate: Share of defective images rejected at that threshold.
    """

    good: int
    defective: int
    image_auroc: float
    image_auroc_error: float
    pixel_auroc: float | None
    pro: float | None
    false_reject_rate: float | None
    detection_rate: float | None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A trained candidate in one precision.

    Attributes:
        precision: The precision of the graph.
        timings: The latencies in every backend that runs it.
        scores: Measured through the fastest of them.
        remarks: What makes the scores doubtful.
    """

    precision: str
    timings: list[Timing]
    scores: Scores
    remarks: list[Remark] = []


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that was trained, exported, calibrated, evaluated and timed.

    Attributes:
        candidate: The candidate.
        key: Hash of everything that decides what follows, the checkpoint included.
        bundle_sha256: Hash of the index of the bundle that was measured.
        epochs: Trained.
        train_images: Trained on.
        held_out_images: Held out.
        seconds: Duration of the training.
        measured: Every precision that passed its gate.
        refused: Why others are missing, by precision.
        failed: Why no backend could be timed, by precision; later calls try again.
        teacher_comparisons: What a compact teacher sees of defects, compared with its source.
        remarks: What makes the training or the thresholds doubtful.
    """

    candidate: MethodSize
    key: str
    bundle_sha256: str
    epochs: int
    train_images: int
    held_out_images: int
    seconds: float
    measured: list[Measured]
    refused: dict[str, str] = {}
    failed: dict[str, str] = {}
    teacher_comparisons: list[TeacherComparison] = []
    remarks: list[Remark] = []


class FrontierRow(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table: a candidate in one precision, in its fastest backend.

    Attributes:
        candidate: The candidate.
        timing: The latency in the fastest backend.
        scores: How well defects are distinguished from good parts.
        bundle: Where it is, relative to the output folder.
        bundle_sha256: Hash of its index when it was measured.
        keeps_budget: Whether the measured percentile is within the budget.
        on_frontier: Whether no other line is at least as fast and as accurate, and better in one of
            the two.
    """

    candidate: MethodSize
    timing: Timing
    scores: Scores
    bundle: str
    bundle_sha256: str
    keeps_budget: bool
    on_frontier: bool = False


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """What is not in the table, and why.

    Attributes:
        candidate: The method and size that was dropped.
        reason: Why, in words.
        cause: Whether the screening dropped it, the hours were spent, it failed, or a gate refused
            a precision.
        precision: The precision that was refused, or None where none is left.
        measured_ms: The screening's fastest percentile, or None.
    """

    candidate: MethodSize
    reason: str
    cause: Literal["screened", "hours", "failed", "refused"] = "failed"
    precision: str | None = None
    measured_ms: float | None = None


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle that is left ready for use.

    Attributes:
        bundle: Where it is.
        row: What it is a copy of.
        confirmed: The same bundle as ``kdx.load`` opens it, measured once more at the end.
    """

    bundle: str
    row: FrontierRow
    confirmed: Timing


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``fit.json``.

    Attributes:
        schema: Version of this layout.
        data: The data folder.
        category: The category of the data set, or None.
        budget_ms: Milliseconds that a verdict may take.
        percentile: Share of the calls, in percent, that must keep it.
        false_reject_rate: The rate for which the thresholds were calibrated.
        evidence: What accuracy was measured on: labelled test images, or synthetic defects.
        notes: What a reader of the figures must know.
        machine: Where latencies were measured.
        screened: The screening, every candidate.
        rows: The table, fastest first.
        dropped: What is not in it, and why.
        best: The most accurate that keeps the budget, or None.
        unconfirmed: More accurate ones that keep it in the table, with the reason why they are not
            the best: they missed it when measured once more, or their bundle had changed.
        compact_choice: Whether the compact teacher or the network that it learns from is better
            here, and why, in words; empty where they were not candidates.
        advice: What would help where nothing keeps it.
        next: The command to run next, or empty.
        created: UTC time, ISO 8601.
    """

    schema: int
    data: str
    category: str | None
    budget_ms: float
    percentile: float
    false_reject_rate: float
    evidence: str
    notes: list[str]
    machine: Machine
    screened: list[Screened]
    rows: list[FrontierRow]
    dropped: list[Dropped]
    best: Best | None
    advice: list[str]
    next: str
    created: str
    compact_choice: str = ""
    unconfirmed: list[str] = []


def fastest_timing(timings: list[Timing]) -> Timing | None:
    """Return the lowest timing at the highest percentile, or None if nothing ran."""
    ran = [timing for timing in timings if timing.measured_ms is not None]
    return min(ran, key=lambda timing: (-timing.percentile, timing.measured_ms)) if ran else None
