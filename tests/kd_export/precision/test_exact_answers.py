"""FP32's answers on the evidence of the gate."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from kd_export.precision.exact_answers import ExactAnswers
from kdx.runtime.backend import Outputs
from kdx.verification.held_out import HeldOut
from kdx.verification.judge import Evidence

IMAGES = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2, 1)


class CountedRunner:
    """Answers with the first pixel of each image, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: onnx.ModelProto, images: object) -> Outputs:
        self.calls += 1
        pixels = np.array([float(image[0, 0, 0]) for image in images], np.float32)
        return Outputs(pixels[:, None, None], pixels[:, None])


def test_each_is_computed_when_it_is_needed_and_once() -> None:
    runner, other = CountedRunner(), CountedRunner()
    labels = np.array([False, True, True])
    evidence = Evidence(IMAGES, images=IMAGES, is_defective=labels, held_out=HeldOut(IMAGES[:1], IMAGES[1:]))
    exact = ExactAnswers(onnx.ModelProto(), evidence, {"first": runner, "other": other})
    assert runner.calls == 0
    for _ in range(2):
        assert exact.golden.scores[:, 0].tolist() == [0, 4, 8]
        assert exact.evaluated is not None
        assert exact.evaluated.tolist() == [0, 4, 8]
        assert exact.held_out is not None
        assert (exact.held_out.good.tolist(), exact.held_out.defects.tolist()) == ([0], [4, 8])
    assert runner.calls == 4  # golden, evaluation, good and defective images
    assert other.calls == 0


@pytest.mark.parametrize("labels", [None, np.array([True, True, True])])
def test_there_are_none_without_images_of_both_kinds(labels: np.ndarray | None) -> None:
    exact = ExactAnswers(
        onnx.ModelProto(), Evidence(IMAGES, images=IMAGES, is_defective=labels), {"x": CountedRunner()}
    )
    assert exact.held_out is None
    assert exact.evaluated is None


def test_the_maps_of_many_images_are_never_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_export.precision.runners._AT_ONCE", 2, raising=False)
    sizes = []

    class Runner(CountedRunner):
        def __call__(self, model: onnx.ModelProto, images: object) -> Outputs:
            outputs = super().__call__(model, images)
            sizes.append(len(outputs.maps))
            return outputs

    labels = np.array([False, True, True])
    evidence = Evidence(IMAGES, images=iter(IMAGES), is_defective=labels, held_out=HeldOut(IMAGES, IMAGES[:2]))
    exact = ExactAnswers(onnx.ModelProto(), evidence, {"x": Runner()})
    assert exact.evaluated is not None
    assert exact.evaluated.tolist() == [0, 4, 8]
    assert exact.held_out is not None
    assert (exact.held_out.good.tolist(), exact.held_out.defects.tolist()) == ([0, 4, 8], [0, 4])
    assert sizes == [2, 1, 2, 1, 2]


def test_a_map_that_is_not_finite_has_no_score_whatever_the_runtime_says() -> None:
    def of_nan(model: onnx.ModelProto, images: object) -> Outputs:
        maps, scores = CountedRunner()(model, images)
        return Outputs(np.where(maps == 4, np.nan, maps), scores)  # the score stays a number

    labels = np.array([False, True, True])
    evidence = Evidence(IMAGES, images=IMAGES, is_defective=labels, held_out=HeldOut(IMAGES, IMAGES))
    exact = ExactAnswers(onnx.ModelProto(), evidence, {"x": of_nan})
    assert exact.held_out is not None
    for scores in (exact.held_out.good, exact.held_out.defects, exact.evaluated):
        np.testing.assert_array_equal(scores, [0, np.nan, 8])
