"""The graphs of a bundle in other precisions than FP32, and what their export measured."""

from __future__ import annotations

from typing import Literal

import msgspec

from kdx.text import number_of, percent

FP16_MAX = 65504.0
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
# The precisions in which a runtime computes the FP32 graph, so that they need no graph file.
COMPUTED = frozenset({"bf16"})
# The precisions that change scores by more than the uncertainty of a threshold, so each has its own
# threshold.
OWN_THRESHOLD = frozenset({"bf16", "int8"})


class TapRange(msgspec.Struct, frozen=True, kw_only=True):
    """The range of the features of one tap on the golden images.

    Attributes:
        tap: The name of the tap, as in the pair's declaration.
        teacher: The largest absolute value of the teacher's feature.
        student: The largest absolute value of the student's feature.
        headroom: The largest number of FP16, 65504, divided by the larger of both.
    """

    tap: str
    teacher: float
    student: float
    headroom: float


class KeptNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the networks that was kept in FP32.

    Attributes:
        node: The name of the node.
        reason: The reason, in words.
    """

    node: str
    reason: str


class RangeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The ranges of values and weights in an FP16 graph.

    Attributes:
        largest: The node with the largest FP16 output on the golden images.
        largest_value: The largest absolute value of that output.
        flushed: The number of weights that FP16 rounds to zero, by node; this changes less than
            rounding does.
        taps: The ranges of the features that are compared.
    """

    largest: str
    largest_value: float
    flushed: dict[str, int]
    taps: list[TapRange]


class HeldOutVerdicts(msgspec.Struct, frozen=True, kw_only=True):
    """The verdicts of a variant and of FP32 on held-out good images, and on synthetic defects.

    Each decides at the threshold that calibration would choose from its own scores at
    :attr:`false_reject_rate`. For a good image and the defects on it, the threshold comes from the
    scores of all other good images.

    Attributes:
        good: The number of held-out good images, or of tiles of large frames.
        frames: The number of independent images among them: the images, or the frames of the tiles.
        defects: The number of synthetic defects on these.
        false_reject_rate: The false reject rate of both thresholds: 1 %, or the lowest that so few
            images allow.
        flips: The number of verdicts that differ, also near the threshold.
        caught: The number of defects that FP32 rejects.
        missed: The number of these defects that the variant accepts.
        flipped_images: The number of :attr:`frames` with a verdict that differs, on the image or on
            a defect drawn on it.
        rate_bound: The upper bound of the share of such images, with 95 % confidence (Clopper and
            Pearson). It counts images, because the verdicts on one image are not independent. It
            does not hold for real defects or at other thresholds.
        auroc: The image AUROC of the variant, synthetic defects against good images.
        auroc_reference: The image AUROC of FP32.
    """

    good: int
    frames: int
    defects: int
    false_reject_rate: float
    flips: int
    caught: int
    missed: int
    flipped_images: int
    rate_bound: float
    auroc: float
    auroc_reference: float

    def describe(self) -> str:
        """Return a text with the counts and the bound."""
        tiles = "" if self.good == self.frames else f"{self.good} tiles of "
        return (
            f"{self.flips} of {self.good + self.defects} verdicts flipped on {tiles}"
            f"{number_of(self.frames, 'held-out good [image|images]')} "
            f"and {number_of(self.defects, 'synthetic [defect|defects]')} on them "
            f"({self.missed} missed of {self.caught} that FP32 rejects): "
            f"with 95 % confidence, on less than {100 * self.rate_bound:.2g} % of such images; this bound does not "
            "hold for real defects"
        )


class DecisionComparison(msgspec.Struct, frozen=True, kw_only=True):
    """How well a variant and FP32 distinguish the same good and defective images.

    Each decides at the threshold that calibration would choose from its own scores of the held-out
    good images, at :attr:`false_reject_rate`. For a held-out image and the defects drawn on it, the
    threshold comes from the scores of all other held-out images. The intervals allow for other
    images, also where these choose the thresholds, see :mod:`kdx.verification.resampling`.

    Attributes:
        defects_are: Whether the defects are synthetic ones on the held-out good images, or those of
            labelled images.
        good: The number of good images, or of tiles of large frames.
        frames: The number of independent images among them: the images, or the frames of the tiles.
        defects: The number of defective images.
        false_reject_rate: The false reject rate of both thresholds: 1 %, or the lowest that so few
            held-out images allow.
        auroc: The image AUROC of the variant.
        auroc_reference: The image AUROC of FP32.
        auroc_interval: The 95 % interval of the difference, ``auroc - auroc_reference``.
        rejected: The number of defective images that the variant rejects.
        rejected_reference: The number of defective images that FP32 rejects.
        rejected_interval: The 95 % interval of the difference of their shares of the defective
            images. It is negative where the variant rejects fewer.
        false_rejects: The number of good images that the variant rejects.
        false_rejects_reference: The number of good images that FP32 rejects.
        false_rejects_interval: The 95 % interval of the difference of their shares of the labelled
            good images. It is positive where the variant rejects more. It is absent for held-out
            images, where the choice of the thresholds bounds these shares.
    """

    defects_are: Literal["synthetic", "labelled"]
    good: int
    frames: int
    defects: int
    false_reject_rate: float
    auroc: float
    auroc_reference: float
    auroc_interval: tuple[float, float]
    rejected: int
    rejected_reference: int
    rejected_interval: tuple[float, float]
    false_rejects: int
    false_rejects_reference: int
    # Absent and not null: records without it keep their bytes.
    false_rejects_interval: tuple[float, float] | msgspec.UnsetType = msgspec.UNSET

    @property
    def detectable_share(self) -> float:
        """The share of images on which a fault must show to be found: a smaller one may be missed.

        None of the images compared has a fault of this share with a probability of 5 %.
        """
        return float(1 - 0.05 ** (1 / self.frames))

    def describe(self) -> str:
        """Return a text with the figures; differences are in points of per cent."""
        if self.defects_are == "labelled":
            what, missed = f"{self.good} good and {self.defects} defective labelled images", ""
        else:
            tiles = "" if self.good == self.frames else f"{self.good} tiles of "
            what = (
                f"{tiles}{number_of(self.frames, 'held-out good [image|images]')} and "
                f"{number_of(self.defects, 'synthetic [defect|defects]')} on them"
            )
            missed = f"; a fault on less than {100 * self.detectable_share:.2g} % of such images may have been missed"
        rejected = (self.rejected - self.rejected_reference) / self.defects
        more = ""
        if self.false_rejects_interval is not msgspec.UNSET:
            difference = (self.false_rejects - self.false_rejects_reference) / self.good
            more = f", difference {_points(difference, self.false_rejects_interval)}"
        return (
            f"on {what}: image AUROC {100 * self.auroc:.1f} (FP32 {100 * self.auroc_reference:.1f}), difference "
            f"{_points(self.auroc - self.auroc_reference, self.auroc_interval)}; {self.rejected} defects rejected "
            f"(FP32 {self.rejected_reference}), difference {_points(rejected, self.rejected_interval)}; "
            f"false rejects: {self.false_rejects} (FP32 {self.false_rejects_reference}){more}{missed}"
        )


def _points(difference: float, interval: tuple[float, float]) -> str:
    """Return a difference of shares and its 95 % interval, in points of per cent."""
    value, low, high = (round(100 * each, 1) + 0.0 for each in (difference, *interval))  # -0.0 becomes 0.0
    return f"{value:+.1f} points (95 %: {low:+.1f} to {high:+.1f})"


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's results for a BF16 or an INT8 variant in one runtime.

    Attributes:
        runtime: The runtime.
        compared: The number of pairs of golden images whose FP32 scores differ by more than the
            margin.
        flips: The number of these pairs that the variant orders differently.
        score_max: The largest difference of a golden score, relative to that score or, if it is
            larger, to the median of all.
        auroc: The image AUROC of the variant on the labelled images that were given, or None.
        auroc_reference: The image AUROC of FP32 on the same images, or None.
        verdicts: The verdicts on held-out good images and synthetic defects; None in bundles of
            schema 1, whose gate used neither.
        decisions: How well the variant decides beside FP32; absent where the gate asked for FP32's
            verdicts, and not for verdicts as good as those.
    """

    runtime: str
    compared: int
    flips: int
    score_max: float
    auroc: float | None = None
    auroc_reference: float | None = None
    verdicts: HeldOutVerdicts | None = None
    # Absent and not null: the indices of other bundles keep their bytes.
    decisions: list[DecisionComparison] | msgspec.UnsetType = msgspec.UNSET

    def describe(self) -> str:
        """Return a text with what the gate found in verdicts; empty if it compared none."""
        if self.decisions:
            return "decides as well as FP32 " + "; ".join(each.describe() for each in self.decisions)
        return self.verdicts.describe() if self.verdicts else ""

    def describe_gate(self) -> str:
        """Return a text with what the gate compared: likeness to FP32, or decisions."""
        if self.decisions:
            return self.describe()
        said = f"scores within {self.score_max:.0%}, {self.flips} of {self.compared} turned"
        if self.auroc is not None:
            said += f", image AUROC {percent(self.auroc)} (FP32 {percent(self.auroc_reference)})"
        return f"{said}, {self.describe()}" if self.describe() else said


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """A graph in another precision, or the FP32 graph computed in it, and its export's results.

    Attributes:
        file: The file of the graph, relative to the bundle.
        convolutions: The number of convolutions in that precision.
        kept: The nodes of the networks that were kept in FP32.
        ranges: The ranges of an FP16 graph, else None.
        judged: The gate's results for BF16 or INT8, one for each runtime.
    """

    file: str
    convolutions: int
    kept: list[KeptNode]
    ranges: RangeReport | None = None
    judged: list[Judged] = []

    def describe(self) -> str:
        """Return a text with what the export found."""
        said = f"{self.convolutions} convolutions"
        said += f", {len(self.kept)} nodes kept in FP32" if self.kept else ""
        if self.ranges:
            tightest = min(self.ranges.taps, key=lambda tap: tap.headroom)
            said += (
                f"; largest activation {self.ranges.largest_value:.4g} of {FP16_MAX:g}, at the taps "
                f"{max(tightest.teacher, tightest.student):.4g} ({tightest.tap})"
            )
        return "; ".join((said, *(f"{each.runtime}: {each.describe_gate()}" for each in self.judged)))


def graph_file(precision: str) -> str:
    """Return the file of a precision's graph, relative to its bundle."""
    return "model.onnx" if precision == "fp32" or precision in COMPUTED else f"model.{precision}.onnx"
