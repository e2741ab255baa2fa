"""Which nodes of a graph are quantised, and by which steps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kd_export.graph.int8 import Int8Plan
from kd_export.precision.int8_plan import plan_int8
from kdx.errors import GateError

IMAGES = np.full((2, 16, 16, 3), 200, np.uint8)
IMAGES[1, 3, 4, 2] = 10


def graph_of(
    side: int = 3, *, stride: int = 1, minimum: float | None = None, mean: float = 100.0, pool: str = ""
) -> onnx.ModelProto:
    """Return a graph of two convolutions after each other.

    Args:
        side: The height and width of the first convolution.
        stride: Its stride.
        minimum: The lower limit of a Clip between them; None for no operation.
        mean: What is subtracted from the image.
        pool: What comes before the second convolution: "", "pool", or "padded".
    """
    arrays = {
        "mean": np.float32(mean),
        "w1": np.full((4, 3, side, side), 0.01, np.float32),
        "w2": np.ones((2, 4, 1, 1), np.float32),
        "minimum": np.float32(minimum or 0.0),
        "maximum": np.float32(6),
        "padding": np.array([0, 0, 0, 0, 0, 0, 1, 1]),
        "infinite": np.float32(-np.inf),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], name="preprocess/Cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], name="preprocess/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean"], ["x"], name="preprocess/Sub"),
        helper.make_node("Conv", ["x", "w1"], ["y"], name="pair.1/Conv", strides=[stride, stride]),
    ]
    value = "y"
    if minimum is not None:
        nodes.append(helper.make_node("Clip", ["y", "minimum", "maximum"], ["clipped"], name="pair/Clip"))
        value = "clipped"
    if pool == "padded":
        nodes.append(helper.make_node("Pad", [value, "padding", "infinite"], ["pad"], name="pair/Pad"))
        value = "pad"
    if pool:
        nodes.append(helper.make_node("MaxPool", [value], ["pool"], name="pair/MaxPool", kernel_shape=[2, 2]))
        value = "pool"
    nodes.append(helper.make_node("Conv", [value, "w2"], ["out"], name="pair.2/Conv"))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "height", "width", 3])
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(
        helper.make_graph(nodes, "two", [image], [output], constants), opset_imports=opset, ir_version=10
    )


def step(plan: Int8Plan, node: str) -> tuple[str, int, float]:
    (found,) = plan.nodes[node]
    return found.type, found.zero, found.scale


@pytest.mark.parametrize(
    ("minimum", "expected"),
    [
        (0.0, ("uint8", 0, pytest.approx(6 / 255))),
        (-1.0, ("uint8", 128, pytest.approx(6 / 127))),
        (None, ("uint8", 128, pytest.approx(27 / 127))),
    ],
)
def test_the_zero_point_follows_from_what_can_be_negative(minimum, expected) -> None:
    plan = plan_int8(graph_of(minimum=minimum), IMAGES)
    assert step(plan, "pair.2/Conv") == expected


@pytest.mark.parametrize(("joined", "zero"), [("Relu", 0), ("Sigmoid", 128)])
def test_what_joins_values_that_cannot_be_negative_cannot_either(joined, zero) -> None:
    graph = graph_of()
    added = [
        helper.make_node("Relu", ["y"], ["first"], name="pair/Relu"),
        helper.make_node(joined, ["y"], ["second"], name=f"pair/{joined}_1"),
        helper.make_node("AveragePool", ["second"], ["pooled"], name="pair/AveragePool", kernel_shape=[1, 1]),
        helper.make_node("Concat", ["first", "pooled"], ["joined"], name="pair/Concat", axis=2),
        helper.make_node("Conv", ["joined", "w2"], ["out"], name="pair.2/Conv"),
    ]
    del graph.graph.node[-1]
    graph.graph.node.extend(added)
    assert step(plan_int8(graph, IMAGES), "pair.2/Conv")[:2] == ("uint8", zero)


@pytest.mark.parametrize(("side", "kind"), [(3, "int8"), (7, "uint8")])
def test_an_image_stays_signed_where_its_convolutions_are_small(side, kind) -> None:
    zero = 128 if kind == "uint8" else 0
    assert step(plan_int8(graph_of(side), IMAGES), "pair.1/Conv") == (kind, zero, pytest.approx(100 / 127))


def test_the_largest_value_of_all_images_sets_the_scale_with_its_headroom() -> None:
    # Of the first image the values are 10, of the second one -180.
    for headroom in (1.0, 1.5):
        plan = plan_int8(graph_of(mean=190.0), IMAGES, headroom=headroom)
        assert step(plan, "pair.1/Conv")[2] == pytest.approx(headroom * 180 / 127)


def test_outliers_do_not_set_the_step_where_they_are_clipped() -> None:
    images = np.random.default_rng(0).integers(98, 103, (2, 16, 16, 3)).astype(np.uint8)
    images[0, 8, 8] = 250  # 150 after the mean, where all others are at most 2
    graph = graph_of(7)
    largest, little = (plan_int8(graph, images, clip_outliers=each) for each in (False, True))
    values = images.transpose(0, 3, 1, 2).astype(np.float32) - np.float32(100)

    def error(scale: float) -> float:
        rounded = np.clip(np.round(values / np.float32(scale)), -128, 127) * np.float32(scale)
        return float((np.square(rounded - values).sum(1) / (np.square(values).sum(1) + 1e-12)).mean())

    tried = [np.float32(150 * 2.0 ** (-half / 2) / 127) for half in range(13)]
    assert step(largest, "pair.1/Conv") == ("uint8", 128, tried[0])
    assert error(tried[0]) > 10 * min(map(error, tried))
    assert step(little, "pair.1/Conv") == ("uint8", 128, min(tried, key=error))
    twice = plan_int8(graph, images, headroom=2.0, clip_outliers=True)
    assert step(twice, "pair.1/Conv")[2] == pytest.approx(2 * step(little, "pair.1/Conv")[2])


def test_steps_of_large_images_come_from_some_rows_and_columns() -> None:
    images = np.random.default_rng(0).integers(98, 103, (1, 512, 512, 3)).astype(np.uint8)
    images[0, ::2, ::2] = 250  # beside all that is compared, and in the range
    assert step(plan_int8(graph_of(7), images), "pair.1/Conv")[2] == pytest.approx(150 / 127)
    assert step(plan_int8(graph_of(7), images, clip_outliers=True), "pair.1/Conv")[2] < 5 / 127


def test_of_a_small_tensor_inside_the_graph_of_a_large_image_everything_is_compared() -> None:
    """One of 64 × 64 from an image of 1024 × 1024, of which every fourth row and column is
    compared."""
    large = np.full((64, 64), 200, np.uint8)
    large[::4, ::4] = large[2::4, 2::4] = 101  # little where a quarter of the tensor would be compared
    images = large.repeat(16, 0).repeat(16, 1)[None, ..., None].repeat(3, 3)
    plans = [plan_int8(graph_of(16, stride=16), images, clip_outliers=each) for each in (False, True)]
    assert step(plans[0], "pair.2/Conv") == step(plans[1], "pair.2/Conv")


def test_a_tensor_without_height_and_width_keeps_the_step_of_its_largest_value() -> None:
    graph = graph_of(7)
    rows = [
        helper.make_node("Reshape", ["out", "flat"], ["rows"], name="pair/Reshape"),
        helper.make_node("Relu", ["rows"], ["positive"], name="pair/Relu"),
        helper.make_node("Add", ["rows", "positive"], ["sum"], name="pair/Add"),
    ]
    graph.graph.node.extend(rows)
    graph.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, -1]), "flat"))
    graph.graph.output[0].CopyFrom(helper.make_tensor_value_info("sum", TensorProto.FLOAT, None))
    images = np.random.default_rng(0).integers(98, 103, (2, 16, 16, 3)).astype(np.uint8)
    images[0, 8, 8] = 250
    plans = [plan_int8(graph, images, clip_outliers=each) for each in (False, True)]
    assert plans[0].nodes["pair/Add"] == plans[1].nodes["pair/Add"]
    assert plans[0].nodes["pair.1/Conv"] != plans[1].nodes["pair.1/Conv"]


def test_even_values_keep_the_step_of_the_largest() -> None:
    images = np.random.default_rng(0).choice(np.array([0, 200], np.uint8), (2, 16, 16, 3))
    plans = [plan_int8(graph_of(7), images, clip_outliers=each) for each in (False, True)]
    assert step(plans[0], "pair.1/Conv") == step(plans[1], "pair.1/Conv")


def test_a_pool_keeps_the_step_of_its_input() -> None:
    plan = plan_int8(graph_of(minimum=0.0, pool="pool"), IMAGES)
    assert list(plan.nodes) == ["pair.1/Conv", "pair/MaxPool", "pair.2/Conv"]
    assert plan.nodes["pair/MaxPool"] == plan.nodes["pair.2/Conv"]


def test_a_pool_that_pads_with_minus_infinity_stays_fp32() -> None:
    plan = plan_int8(graph_of(minimum=0.0, pool="padded"), IMAGES)
    assert list(plan.nodes) == ["pair.1/Conv", "pair.2/Conv"]
    assert step(plan, "pair.2/Conv") == ("uint8", 128, pytest.approx(6 / 127))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value) -> None:
    with pytest.raises(GateError, match=r"'pair\.1/Conv' cannot be quantised") as refused:
        plan_int8(graph_of(mean=value), IMAGES)
    assert refused.value.received == ("nan" if np.isnan(value) else "inf")


def test_without_images_nothing_can_be_quantised() -> None:
    with pytest.raises(GateError, match="nothing can be quantised") as refused:
        plan_int8(graph_of(), IMAGES[:0])
    assert refused.value.received == "2 nodes, 0 images"
