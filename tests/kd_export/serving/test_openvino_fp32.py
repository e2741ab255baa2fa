"""Operations that stay FP32 where OpenVINO would take BF16: the same numbers, bit by bit, as when
it is told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")

import openvino as ov
from openvino import opset13 as ops
from openvino import opset14

from kd_export.serving.openvino_fp32 import mark_as_fp32, settle
from kdx.runtime.openvino.compilation import configuration, core, offers_bf16

SHAPE = (1, 8, 16, 16)
# As Triton's backend compiles: not a word of the precision.
SILENT = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}


def constant(values: Any) -> Any:
    return ops.constant(np.asarray(values))


def one(value: float) -> Any:
    return constant(np.float32(value))


def largest(step: int = 1, **options: Any) -> Callable[[Any], Any]:
    return lambda x: opset14.max_pool(x, [2, 2], [step, step], [1, 1], [1, 1], [3, 3], **options).output(0)


def cut(x: Any) -> Any:
    starts, stops, steps, axes = ([2, 1], [np.iinfo(np.int64).max, -1], [1, 2], [2, 3])
    return ops.slice(x, *(constant(np.array(each, np.int64)) for each in (starts, stops, steps, axes)))


def extremes(x: Any) -> Any:
    """The range of all values, by which they are scaled: a difference of two single numbers."""
    every = constant(np.array([1, 2, 3], np.int64))
    spread = ops.subtract(ops.reduce_max(x, every, True), ops.reduce_min(x, every, True))
    return ops.multiply(x, spread)


KINDS: dict[str, Callable[[Any], Any]] = {
    "minus a constant": lambda x: ops.subtract(x, one(0.3)),
    "minus a constant for each channel": lambda x: ops.subtract(x, constant(np.full((1, 8, 1, 1), 0.3, np.float32))),
    "a constant minus": lambda x: ops.subtract(one(0.3), x),
    "a difference": lambda x: ops.subtract(x, ops.relu(x)),
    "a difference of single numbers": extremes,
    "by a constant": lambda x: ops.divide(x, one(0.3)),
    "largest of": largest(),
    "largest of, rounded up": largest(rounding_type="ceil"),
    "mean of": lambda x: ops.avg_pool(x, [2, 2], [1, 1], [1, 1], [3, 3], True),
    "a part": cut,
    "with a further axis": lambda x: ops.squeeze(ops.unsqueeze(ops.relu(x), constant([1])), constant([1])),
    "another shape": lambda x: ops.reshape(ops.relu(x), constant([1, 8, 16, 16]), False),
}


def model_of(operation: Callable[[Any], Any]) -> Any:
    """An operation between two convolutions, which OpenVINO computes in BF16 if it may, and all
    between them."""
    generator = np.random.default_rng(0)
    weights = [constant(generator.standard_normal((8, 8, 3, 3)).astype(np.float32)) for _ in range(2)]
    image = ops.parameter(SHAPE, np.float32, name="image")
    around = ([1, 1], [1, 1], [1, 1], [1, 1])
    between = operation(ops.convolution(image, weights[0], *around))
    return ov.Model([ops.convolution(between, weights[1], *around)], [image], "model")


def run(model: Any, properties: dict[str, Any]) -> np.ndarray:
    image = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    return core().compile_model(model, "CPU", properties)(image)[0].copy()


@pytest.mark.parametrize("kind", KINDS)
def test_settled_operations_compute_the_same(kind):
    expected = run(model_of(KINDS[kind]), configuration("f32", 1))
    settled = model_of(KINDS[kind])
    settle(settled)
    # A division is a product with the reciprocal for OpenVINO in any case; sums may come in another
    # order.
    np.testing.assert_allclose(run(settled, configuration("f32", 1)), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_marked_operations_stay_fp32(kind, tmp_path):
    if not offers_bf16():
        pytest.skip("this CPU computes no BF16")
    model = model_of(KINDS[kind])
    settle(model)
    expected = run(model, configuration("f32", 1))
    ov.serialize(model, tmp_path / "model.xml", tmp_path / "model.bin")
    rounded = run(core().read_model(tmp_path / "model.xml"), SILENT)
    assert np.abs(rounded - expected).max() > 1e-3  # so it would be
    mark_as_fp32(tmp_path / "model.xml")
    np.testing.assert_array_equal(run(core().read_model(tmp_path / "model.xml"), SILENT), expected)


def test_what_is_not_settled_loses_its_mark(tmp_path):
    if not offers_bf16():
        pytest.skip("this CPU computes no BF16")
    model = model_of(KINDS["largest of"])
    expected = run(model, configuration("f32", 1))
    ov.serialize(model, tmp_path / "model.xml", tmp_path / "model.bin")
    mark_as_fp32(tmp_path / "model.xml")
    assert np.abs(run(core().read_model(tmp_path / "model.xml"), SILENT) - expected).max() > 1e-3


@pytest.mark.parametrize(
    "operation",
    [
        largest(2),
        lambda x: ops.divide(x, ops.relu(x)),
        lambda x: ops.subtract(ops.convert(x, "i32"), constant(np.int32(1))),
        lambda x: ops.slice(x, *(constant(np.array(each, np.int64)) for each in ([9], [2], [-1], [3]))),
    ],
    ids=["dilated", "by another value", "integers", "backwards"],
)
def test_what_cannot_be_settled_stays(operation):
    image = ops.parameter(SHAPE, np.float32, name="image")
    model = ov.Model([operation(image)], [image], "model")
    before = [op.get_type_name() for op in model.get_ordered_ops()]
    settle(model)
    assert [op.get_type_name() for op in model.get_ordered_ops()] == before
