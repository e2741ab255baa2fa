"""Which nodes of a graph are quantised for CPUs, and by which steps.

The inputs of the networks' convolutions, residual additions and pools are quantised, their outputs
are not, so that a runtime fuses what follows a convolution into it. Everything outside the networks
is FP32, the features that the tail compares included.

CPUs multiply unsigned by signed bytes. ONNX Runtime fuses a convolution into an integer kernel
only if its input and its output have the same type, and a ReLU only if the quantisation cuts off
at zero itself. So all activations are uint8: those that cannot be negative have the zero point 0
and use all 256 steps, the others have the zero point 128, with the steps of int8.

The image is an exception where the first convolutions have few products for each output. Their
integer kernels are slower in ONNX Runtime than FP32, because it moves the image's channels to the
end before the mean is subtracted: 0.65 ms against 0.29 for two convolutions of 3 × 3 × 3 on 160 ×
160 pixels. As int8, which is not the type of their output, they stay FP32 there. Two convolutions
of 7 × 7 × 3 gain 5.7 ms as uint8. OpenVINO computes both in integers, equally fast.

Scales come from the largest absolute values on real images. Trained STPM on tf_efficientnet_lite0,
348 magnetic tiles, against FP32 (image AUROC 0.9165): AUROC 0.918 and rank correlation 0.987; NNCF
3.4 (whose ranges are means of minima and maxima, with bias correction) 0.895 and 0.966: activations
beyond a mean range are cut off, and defects have such. Percentiles of 99.999 are as good as maxima
and take three times as long.

Students that learn with their own rounding need not reach the largest values, and some tensors have
a few that are far above all others: in the decoder of reverse distillation on a compact teacher,
steps by the maxima left three quarters of the first tap's features unlike the teacher's (mean
cosine distance 0.76; FP32 0.14), and the students did not recover. Steps of the least relative
error left 0.15. But those clip tensors at half of their maxima that have no such values, and lost
defects: of STPM on tf_efficientnet_lite0 the gate's image AUROC was 0.9 points below FP32's, with
the maxima 0.5. So a tensor gets the step of the least squared error where that of its maximum is
more than ten times as large, and keeps its maximum otherwise.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from kd_export.graph.int8 import Int8Plan, Step, step_of
from kd_export.precision.activations import CONVOLUTIONS, activations
from kd_export.precision.ranges import accurate_steps, measure_ranges
from kdx.bundle.graph_contract import PAIR
from kdx.errors import GateError
from kdx.imaging.samples import evenly

# Operations whose output is not negative where no input is.
_OF_ITS_INPUTS = frozenset({"Concat", "MaxPool", "AveragePool", "GlobalAveragePool"})
_FEW_PRODUCTS = 64
_COMPARED = 64  # images are enough to compare steps
# The error that is accepted for clipping nothing, as a multiple of the least: defects exceed what
# leaves the least error on good images, in the image itself too.
_MOST_ERROR = 10.0
# Where values may be clipped, as shares of the largest: between two of them lies a factor of the
# square root of 2.
_CLIPPED_AT = tuple(2.0 ** (-half / 2) for half in range(13))


def plan_int8(
    model: ModelProto, images: NDArray[np.uint8], *, headroom: float = 1.0, clip_outliers: bool = False
) -> Int8Plan:
    """Return which nodes of a graph are quantised, and by which steps.

    Args:
        model: The FP32 graph, its nodes named by module.
        images: uint8 ``(K, H, W, C)``, real images; they run one at a time.
        headroom: Values are clipped at this multiple of the largest absolute value on the images,
            or of what leaves little error.
        clip_outliers: Whether a tensor is clipped below its largest value where that leaves much
            less error on the images, see :func:`accurate_steps`; for students that learn with it.

    Raises:
        GateError: Nothing can be quantised, or a value is not finite.
    """
    graph = _Graph(model)
    if not graph.quantisable or not len(images):
        raise GateError(
            "nothing can be quantised",
            expected="convolutions in the networks, and images to calibrate on",
            received=f"{len(graph.quantisable)} nodes, {len(images)} images",
        )
    sources = {node.name: [graph.source(name) for name in activations(node)] for node in graph.quantisable}
    ranges = measure_ranges(model, {name for names in sources.values() for name in names}, images)
    invalid = [node for node, names in sources.items() if not all(math.isfinite(ranges[name]) for name in names)]
    if invalid:
        raise GateError(
            f"'{invalid[0]}' cannot be quantised",
            expected="finite values on the images that set the scales",
            received=", ".join(f"{ranges[name]:g}" for name in sources[invalid[0]]),
            fix="train again with a lower `learning_rate`",
        )
    if clip_outliers:
        shares = {
            name: [graph.step(name, largest * share) for share in _CLIPPED_AT] for name, largest in ranges.items()
        }
        best = accurate_steps(model, shares, images[evenly(range(len(images)), _COMPARED)], most=_MOST_ERROR)
        ranges = {name: ranges[name] * _CLIPPED_AT[shares[name].index(step)] for name, step in best.items()}
    steps = {name: graph.step(name, headroom * largest) for name, largest in ranges.items()}
    return Int8Plan({node: tuple(steps[name] for name in names) for node, names in sources.items()})


class _Graph:
    """A graph, whose nodes and constants are found by name.

    Attributes:
        quantisable: The networks' convolutions, residual additions and pools.
    """

    def __init__(self, model: ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self.quantisable = [node for node in model.graph.node if self._is_quantisable(node)]
        self._pools = {node.output[0]: node for node in self.quantisable if node.op_type == "MaxPool"}

    def source(self, name: str) -> str:
        """Return the tensor whose step a tensor has: a pool's output has that of its input.

        So the pool itself can be INT8.
        """
        return self.source(self._pools[name].input[0]) if name in self._pools else name

    def step(self, name: str, largest: float) -> Step:
        """Return the step of a tensor, given its largest absolute value."""
        maker = self._makers[name]
        if self._is_not_negative(maker):
            return step_of(largest, "non-negative")
        is_image = not maker.name.startswith(PAIR)
        return step_of(largest, "image" if is_image and self._products(name) < _FEW_PRODUCTS else "any")

    def _is_quantisable(self, node: NodeProto) -> bool:
        if not node.name.startswith(PAIR) or node.op_type not in {*CONVOLUTIONS, "Add", "MaxPool"}:
            return False
        makers = {self._makers[name].op_type for name in node.input if name in self._makers}
        if node.op_type == "MaxPool" and "Pad" in makers:  # padded with minus infinity
            return False
        # Not a convolution with computed weights, nor the addition of a constant.
        return (node.op_type in CONVOLUTIONS) == any(name in self._tensors for name in node.input)

    def _is_not_negative(self, maker: NodeProto) -> bool:
        if maker.op_type in _OF_ITS_INPUTS:
            return all(name in self._makers and self._is_not_negative(self._makers[name]) for name in maker.input)
        if maker.op_type != "Clip":
            return maker.op_type == "Relu"
        low = maker.input[1]
        return low in self._tensors and bool(numpy_helper.to_array(self._tensors[low]) >= 0)

    def _products(self, name: str) -> int:
        """Return the fewest products for each output of the convolutions that take a tensor."""
        users = [node for node in self.quantisable if node.op_type == "Conv" and node.input[0] == name]
        return min((math.prod(self._tensors[node.input[1]].dims[1:]) for node in users), default=0)
