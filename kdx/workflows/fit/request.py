"""The request to ``kdx fit``, checked before anything takes time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kd_train.methods import find_method, methods
from kd_train.models import compact
from kd_train.models.teacher import is_compact
from kd_train.recipes import DEFAULT_SOURCE, Recipe
from kd_train.training.from_options import check_options, recipe_of, split_names
from kd_train.training.options import TrainOptions
from kd_train.training.run_folder import check_device
from kdx.bundle.variants import PRECISIONS
from kdx.errors import OptionError
from kdx.imaging.image_size import ImageSize, both_sides, require_size
from kdx.runtime.cycle_time import runs_needed
from kdx.workflows.fit.trial_records import MethodSize

# FP16 graphs are for GPUs, whose engines are built from a finished bundle; CPUs compute them in
# FP32.
CPU_PRECISIONS = tuple(precision for precision in PRECISIONS if precision != "fp16")
SIZES = (128, 160, 224, 256)

# A call of an empty Python function and a glance at the array take some microseconds; a minute is
# no cycle time.
_BUDGET_MS = (0.05, 60_000.0)
_MOST_RUNS = 100_000
_SIZE_LIMITS = (32, 4096)
# The compact teacher that is tried, and the method with which it was measured.
COMPACT, COMPACT_METHOD = compact.DEFAULT, "stpm"
# Recorded beside the training options, or set by this command.
_RECORDED_ELSEWHERE = ("method", "image_size", "category")


@dataclass(frozen=True)
class FitRequest:
    """The options of ``kdx fit``.

    Attributes:
        data: The data folder.
        out: Where everything goes.
        budget_ms: Milliseconds that a verdict may take.
        percentile: Share of the calls, in percent, that must keep it.
        methods: Names of the methods to try; empty for every method.
        sizes: Sizes at which the networks run, in pixels.
        precisions: Precisions to try; FP32, which every bundle holds, is always among them.
        threads: Threads of each backend.
        hours: A training that would not end within them is stopped early; None for no limit, 0 for
            what is trained already.
        false_reject_rate: Share of good parts that may be rejected.
        force: Discard what an earlier call left.
        training: Everything else that training takes; method and image size are each candidate's
            own.
    """

    data: Path
    out: Path
    budget_ms: float
    percentile: float
    methods: tuple[str, ...]
    sizes: tuple[ImageSize, ...]
    precisions: tuple[str, ...]
    threads: int
    hours: float | None
    false_reject_rate: float
    force: bool = False
    training: TrainOptions = field(default_factory=TrainOptions)

    def options_of(self, candidate: MethodSize) -> TrainOptions:
        """Return what a candidate is trained with, on from where an earlier call stopped."""
        chosen = self.training
        if candidate.backbone:
            source = chosen.backbone if candidate.backbone == COMPACT else None
            chosen = replace(chosen, backbone=candidate.backbone, teacher_from=source)
        return replace(chosen, method=candidate.method, image_size=candidate.size, resume=True, force=False)

    def recipe_of(self, candidate: MethodSize) -> Recipe:
        """Return a candidate's recipe."""
        return recipe_of(self.options_of(candidate))

    def candidates(self) -> list[MethodSize]:
        """Return every candidate, each method's sizes from the smallest.

        STPM is also tried with a compact teacher, and with the network from which that one learns.
        """
        pairs = [(method, "") for method in self.methods]
        pairs += [pair for pair in self.compact_and_source or () if pair not in pairs]
        return [MethodSize(method, size, backbone) for method, backbone in pairs for size in self.sizes]

    @property
    def compact_and_source(self) -> tuple[tuple[str, str], tuple[str, str]] | None:
        """Method and teacher of the compact pair, and of the pair of the network it learns from.

        None where they are not candidates: the user asked for other methods or for compact
        teachers, or named taps or a file of weights for the paper's network.
        """
        chosen = self.training
        if COMPACT_METHOD not in self.methods:
            return None
        if chosen.backbone is not None:
            # Compact networks learn from no compact network.
            named = split_names(chosen.backbone)
            return None if is_compact(named) else ((COMPACT_METHOD, COMPACT), (COMPACT_METHOD, ""))
        if chosen.taps is not None or chosen.weights not in ("imagenet", "random"):
            return None
        return (COMPACT_METHOD, COMPACT), (COMPACT_METHOD, DEFAULT_SOURCE[0])

    def asked(self) -> dict[str, Any]:
        """Return the training options that the user gave and that decide what runs hold."""
        return self.training.changed(without=_RECORDED_ELSEWHERE)


def checked(request: FitRequest) -> FitRequest:
    """Return the request with its lists in order, or say what is wrong with it.

    Raises:
        OptionError: A value, a name or a combination is invalid.
    """
    _require("budget_ms", request.budget_ms, *_BUDGET_MS)
    _require("percentile", request.percentile, 50, 100)
    if request.percentile == 100 or runs_needed(request.percentile) > _MOST_RUNS:
        raise OptionError(
            "`percentile` is too high to be measured for every candidate",
            expected=f"one that {_MOST_RUNS:,} calls can measure, e.g. 99.99",
            received=f"{request.percentile:g}",
        )
    _require_inside("false_reject_rate", request.false_reject_rate, 0, 1)
    if request.hours is not None and not 0 <= request.hours < math.inf:
        raise OptionError("`hours` is out of range", expected="0 or more", received=f"{request.hours:g}")
    for size in request.sizes:
        for side in both_sides(require_size("sizes", size)):
            _require("sizes", side, *_SIZE_LIMITS)
    for precision in request.precisions:
        if precision not in CPU_PRECISIONS:
            fix = "build an engine from the finished bundle: kdx build-engine" if precision == "fp16" else ""
            raise OptionError("invalid `precisions`", expected=", ".join(CPU_PRECISIONS), received=precision, fix=fix)
    for name in request.methods:
        find_method(name)
    found = replace(
        request,
        methods=tuple(dict.fromkeys(request.methods)) or tuple(sorted(methods())),
        sizes=tuple(sorted({require_size("sizes", size) for size in request.sizes}, key=_pixels)),
        precisions=tuple(dict.fromkeys(("fp32", *request.precisions))),
    )
    if not found.sizes:
        raise OptionError("`sizes` names no size", expected="e.g. 128,160,256")
    check_options(found.training)
    check_device(found.training.device)
    for candidate in found.candidates():
        found.recipe_of(candidate)  # what no recipe can have is said now
    return found


def _pixels(size: ImageSize) -> tuple[int, int]:
    """Return the key by which sizes ascend."""
    height, width = both_sides(size)
    return height * width, height


def _require(option: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also false for what is not a number
        raise OptionError(f"`{option}` is out of range", expected=f"{low:g} to {high:g}", received=f"{value:g}")


def _require_inside(option: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise OptionError(
            f"`{option}` is out of range", expected=f"above {low:g}, below {high:g}", received=f"{value:g}"
        )
