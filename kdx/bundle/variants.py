"""What a bundle says of its graphs in other precisions than FP32."""

from __future__ import annotations

import msgspec

FP16_MAX = 65504.0
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
# What a runtime computes in of its own accord, from the FP32 graph.
COMPUTED = frozenset({"bf16"})
# These move scores by more than a threshold's own uncertainty: each is calibrated for itself.
OWN_THRESHOLD = frozenset({"bf16", "int8"})


class TapRange(msgspec.Struct, frozen=True, kw_only=True):
    """How large the features of one comparison get on the golden images.

    Attributes:
        tap: Its name, as in the pair's declaration.
        teacher: Largest absolute value of the teacher's feature.
        student: Likewise of the student's.
        headroom: How many times the larger of both fits below FP16's largest number, 65504.
    """

    tap: str
    teacher: float
    student: float
    headroom: float


class KeptNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the networks that was kept in FP32.

    Attributes:
        node: Its name.
        reason: Why, in words.
    """

    node: str
    reason: str


class RangeReport(msgspec.Struct, frozen=True, kw_only=True):
    """How large values get, and how small weights are, in an FP16 graph.

    Attributes:
        largest: The node with the largest FP16 output on the golden images.
        largest_value: That output's largest absolute value.
        flushed: Weights that FP16 turns into zero, by node, where that changes less than rounding does.
        taps: The features that are compared.
    """

    largest: str
    largest_value: float
    flushed: dict[str, int]
    taps: list[TapRange]


class HeldOutVerdicts(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate found of a variant's verdicts on held-out good images and on synthetic defects drawn on them.

    FP32 and the variant each decide at the threshold that calibration would choose from their own scores, see
    :attr:`false_reject_rate`: for each good image and the defects on it, from the scores of all other good images.

    Attributes:
        good: Held-out good images; of large frames, tiles of them.
        frames: How many of them are independent: the images, or the frames that the tiles are of.
        defects: Synthetic defects on these.
        false_reject_rate: For which both thresholds are: 1 %, or what so few images can promise.
        flips: Verdicts that differ, however near to the threshold.
        caught: Defects that FP32 rejects.
        missed: Of these, those that the variant passes.
        flipped_images: Of :attr:`frames`, those of which a verdict flips, their own or that of a defect drawn on them.
        rate_bound: With 95 % confidence, the share of such images is below this (Clopper and Pearson). It is of images:
            verdicts on one image are not independent. Nothing is bounded for real defects, nor at other thresholds.
        auroc: Image AUROC of the variant, synthetic defects against good images.
        auroc_reference: Of FP32.
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
        """Say in words what was found and what it bounds."""
        tiles = "" if self.good == self.frames else f"{self.good} tiles of "
        return (
            f"{self.flips} of {self.good + self.defects} verdicts flipped on {tiles}{self.frames} held-out good images "
            f"and {self.defects} synthetic defects on them ({self.missed} missed of {self.caught} that FP32 rejects): "
            f"with 95 % confidence, on less than {100 * self.rate_bound:.2g} % of such images; nothing is bounded for "
            "real defects"
        )


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate found of a BF16 or an INT8 variant in one runtime.

    Attributes:
        runtime: Which.
        compared: Pairs of golden images whose FP32 scores are apart by more than the margin.
        flips: Those of them that it orders otherwise.
        score_max: Largest difference of a golden score, relative to it or, where larger, to the median of all.
        auroc: Of the variant on the labelled images that were given, or None.
        auroc_reference: Of FP32.
        verdicts: On held-out good images and synthetic defects; None in bundles of schema 1, whose gate saw neither.
    """

    runtime: str
    compared: int
    flips: int
    score_max: float
    auroc: float | None = None
    auroc_reference: float | None = None
    verdicts: HeldOutVerdicts | None = None


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """A graph in another precision, or FP32's computed in another, and what was found when it was exported.

    Attributes:
        file: The graph, relative to the bundle.
        convolutions: How many of its convolutions are in that precision.
        kept: Nodes of the networks that were kept in FP32.
        ranges: Of an FP16 graph.
        judged: Of BF16 and INT8.
    """

    file: str
    convolutions: int
    kept: list[KeptNode]
    ranges: RangeReport | None = None
    judged: list[Judged] = []


def graph_file(precision: str) -> str:
    """Return a precision's graph, relative to its bundle."""
    return "model.onnx" if precision == "fp32" or precision in COMPUTED else f"model.{precision}.onnx"
