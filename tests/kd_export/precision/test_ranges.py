"""The ranges of values inside a graph."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kd_export.precision.ranges import measure_ranges


@pytest.mark.parametrize("place", [(0, 0, 0), (5, 5, 1), (15, 15, 2)])
@pytest.mark.parametrize(("value", "expected"), [(0, np.nan), (1, np.inf), (3, np.log(99))])
def test_one_value_that_is_not_finite_is_seen_wherever_it_is(place, value, expected) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 16, 16, 3])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16, 16, 3])
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["values", "one"], ["less"]),
        helper.make_node("Log", ["less"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "log", [image], [output], [numpy_helper.from_array(np.float32(1), "one")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    images = np.full((2, 16, 16, 3), 100, np.uint8)
    images[(0, *place)] = value
    assert measure_ranges(model, ["y"], images)["y"] == pytest.approx(expected, nan_ok=True)
