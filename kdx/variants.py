"""What a bundle says of its graphs in other precisions than FP32."""

from __future__ import annotations

import msgspec

FP16_MAX = 65504.0
PRECISIONS = ("fp32", "fp16")


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


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """A graph in another precision, and what was found when it was made.

    Attributes:
        file: The graph, relative to the bundle.
        half_convolutions: Convolutions whose weights and arithmetic are FP16.
        kept: Nodes of the networks that were kept in FP32.
        flushed: Weights that FP16 turns into zero, by node, where that changes less than rounding does.
        largest: The node with the largest FP16 output on the golden images.
        largest_value: That output's largest absolute value.
        taps: The range report.
    """

    file: str
    half_convolutions: int
    kept: list[KeptNode]
    flushed: dict[str, int]
    largest: str
    largest_value: float
    taps: list[TapRange]


def graph_file(precision: str) -> str:
    """Return a precision's graph, relative to its bundle."""
    return "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
