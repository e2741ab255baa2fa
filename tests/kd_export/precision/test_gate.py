"""The gate refuses what decides otherwise, and puts layers back only as far as that is needed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kd_export.precision.exact_answers import ExactAnswers
from kd_export.precision.gate import Gate, reason_of
from kd_export.precision.quantize import put_back, quantised_nodes, quantize
from kd_export.precision.runners import run_onnxruntime, runtimes
from kdx.bundle.open import open_bundle
from kdx.imaging.images import read_image
from kdx.runtime.backend import Outputs
from kdx.verification.held_out import HeldOutScores
from kdx.verification.judge import Evidence, Judgement, judge
from kdx.verification.tolerances import LIMITS, Limits

BF16, INT8 = LIMITS["bf16"], LIMITS["int8"]

ONNX_RUNTIME = {"onnxruntime-cpu": run_onnxruntime}
ANYTHING = Limits(margin=1e9, score=1e9, map=1e9)


class Trained:
    """A trained STPM: its graph, its INT8 form, its golden images, and a labelled evaluation
    set."""

    def __init__(self, bundle_folder, dataset) -> None:
        bundle = open_bundle(bundle_folder)
        spec = bundle.manifest.input
        self.model = onnx.load(bundle.graph.path)
        self.golden = bundle.golden().images
        good = sorted((dataset / "train/good").glob("*.png"))
        self.quantised = quantize(self.model, np.stack([read_image(path, spec) for path in good[:6]]))
        test = sorted((dataset / "test").glob("*/*.png"))
        self.images = np.stack([read_image(path, spec) for path in test])
        self.is_defective = np.array([path.parent.name != "good" for path in test])

    def gate(self, limits: Limits = INT8, **evidence) -> Gate:
        return Gate(ExactAnswers(self.model, Evidence(self.golden, **evidence), ONNX_RUNTIME), limits)


@pytest.fixture(scope="module")
def trained_stpm(raw_bundle, dataset) -> Trained:
    return Trained(raw_bundle, dataset)


def broken(graph: onnx.ModelProto, name: str, factor: float = 8.0) -> onnx.ModelProto:
    """Return an INT8 graph with the weights' scales of a quantised convolution off."""
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    node = next(n for n in changed.graph.node if n.name == name)
    dequantize = next(n for n in changed.graph.node if node.input[1] in n.output)
    scale = next(tensor for tensor in changed.graph.initializer if tensor.name == dequantize.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(factor), scale.name))
    return changed


def test_an_honest_int8_graph_passes_whole(trained_stpm) -> None:
    graph, report = trained_stpm.gate().pass_int8(trained_stpm.quantised)
    assert graph is trained_stpm.quantised
    assert report.passed
    assert report.kept == []
    assert report.attempts == 1
    assert report.quantised == len(quantised_nodes(graph))
    (judgement,) = report.judgements
    assert judgement.compared > 0
    assert 0 < judgement.score_max <= INT8.score


# The stems: the residual branches of this miniature hold zeros, whose scale is nobody's business.
# On a trained tf_efficientnet_lite0 every third convolution was tried, and each was refused.
@pytest.mark.parametrize("layer", ["conv1.0", "conv1.3"])
@pytest.mark.parametrize("network", ["teacher.networks.0", "student"])
def test_a_layer_whose_scale_is_off_by_8_is_refused(trained_stpm, network, layer) -> None:
    changed = broken(trained_stpm.quantised, f"pair.{network}.{layer}/Conv")
    (judgement,) = trained_stpm.gate().judge(changed)
    assert not judgement.passed
    assert judgement.faults


@pytest.mark.slow
def test_the_broken_layer_is_put_back_and_nothing_else(trained_stpm) -> None:
    name = "pair.teacher.networks.0.conv1.3/Conv"
    changed = broken(trained_stpm.quantised, name)
    graph, report = trained_stpm.gate().pass_int8(changed)
    assert graph is not None
    assert report.passed
    assert [kept.node for kept in report.kept] == [name]
    assert "INT8 moves the maps" in report.kept[0].reason
    assert set(quantised_nodes(changed)) - set(quantised_nodes(graph)) == {name}
    # With it gone, what is left is what the honest graph would be.
    honest = put_back(trained_stpm.quantised, trained_stpm.model, [name])
    ours, theirs = (run_onnxruntime(each, trained_stpm.golden) for each in (graph, honest))
    np.testing.assert_array_equal(ours.scores, theirs.scores)


@pytest.mark.slow
def test_several_broken_layers_are_put_back_worst_first(trained_stpm) -> None:
    changed, names = trained_stpm.quantised, ["pair.student.conv1.0/Conv", "pair.student.conv1.3/Conv"]
    for name in names:
        changed = broken(changed, name)
    graph, report = trained_stpm.gate().pass_int8(changed)
    assert graph is not None
    kept = [each.node for each in report.kept]
    assert set(kept) == set(names)
    # As few as possible: one less does not pass.
    fewer = put_back(changed, trained_stpm.model, kept[:-1])
    assert not all(judgement.passed for judgement in trained_stpm.gate().judge(fewer))


@pytest.mark.slow
def test_what_putting_back_cannot_fix_is_not_written_and_the_report_says_why(trained_stpm) -> None:
    # The tail is not quantised: putting layers back does not fix it.
    changed = onnx.ModelProto()
    changed.CopyFrom(trained_stpm.quantised)
    score = next(node for node in changed.graph.node if "anomaly_score" in node.output)
    score.output[0] = "negated"
    changed.graph.node.append(onnx.helper.make_node("Neg", ["negated"], ["anomaly_score"], name="tail/Neg"))
    graph, report = trained_stpm.gate().pass_int8(changed)
    assert graph is None
    assert not report.passed
    assert "ordered differently" in report.reason
    assert len(report.kept) == len(quantised_nodes(trained_stpm.quantised)) // 2


def test_not_finite_never_passes(trained_stpm) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(trained_stpm.quantised)
    last = [node for node in changed.graph.node if node.op_type == "MatMul"][-1]
    constant = next(tensor for tensor in changed.graph.initializer if tensor.name in last.input)
    constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) * np.float32("nan"), constant.name))
    (judgement,) = trained_stpm.gate(ANYTHING).judge(changed)
    assert judgement.faults == ["scores that are not finite"]


@pytest.mark.slow
def test_every_runtime_is_asked(trained_stpm) -> None:
    def other(model: onnx.ModelProto, images: np.ndarray) -> Outputs:
        outputs = run_onnxruntime(model, images)
        return Outputs(outputs.maps, -outputs.scores)

    runners = {**ONNX_RUNTIME, "other": other}
    gate = Gate(ExactAnswers(trained_stpm.model, Evidence(trained_stpm.golden), runners), INT8)
    graph, report = gate.pass_int8(trained_stpm.quantised)
    assert graph is None
    assert "other: " in report.reason
    assert "onnxruntime-cpu" not in report.reason


def test_openvino_is_asked_where_it_is_installed() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    assert list(runtimes()) == ["onnxruntime-cpu", "openvino"]


def test_bf16_passes_or_is_refused_by_its_own_limits(trained_stpm) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    from kdx.runtime.openvino.compilation import offers_bf16

    if not offers_bf16():
        pytest.skip("this CPU has no BF16")
    report = trained_stpm.gate(BF16).pass_bf16()
    assert report.passed
    assert report.precision == "bf16"
    assert 0 < report.judgements[0].score_max < BF16.score
    assert not trained_stpm.gate(Limits(margin=0.0, score=1e-9)).pass_bf16().passed


def test_the_evaluation_set_counts(trained_stpm) -> None:
    evidence = {"images": trained_stpm.images, "is_defective": trained_stpm.is_defective}
    (judgement,) = trained_stpm.gate(ANYTHING, **evidence).judge(trained_stpm.model)
    assert judgement.auroc == judgement.auroc_reference
    from kd_train.evaluation.metrics import auroc

    scores = run_onnxruntime(trained_stpm.model, trained_stpm.images).scores[:, 0]
    assert judgement.auroc == pytest.approx(auroc(trained_stpm.is_defective, scores))
    only_good = {"images": trained_stpm.images, "is_defective": np.zeros(len(trained_stpm.images), bool)}
    (judgement,) = trained_stpm.gate(ANYTHING, **only_good).judge(trained_stpm.model)
    assert judgement.auroc is None


# The rules, on numbers.

NONE = np.zeros((4, 1, 1, 1), np.uint8)
REFERENCE = np.array([1.0, 2.0, 3.0, 4.0])


def judged(scores, limits=ANYTHING, thresholds=None, evaluated=None, labels=None, maps=None):
    evidence = Evidence(NONE, thresholds, is_defective=labels)
    return judge("x", limits, evidence, (REFERENCE, np.array(scores)), maps, evaluated)


def test_a_flip_counts_at_each_ones_own_threshold() -> None:
    limits = Limits(margin=0.1, score=1e9)
    assert judged(REFERENCE * 3, limits, (2.5, 7.5)).passed
    assert judged(REFERENCE * 3, limits, (2.5, 2.5)).flips == 2
    assert judged([1.0, 2.6, 3.0, 4.0], limits, (2.5, 2.5)).flips == 1
    assert judged([1.0, 2.0, 2.5, 4.0], limits, (2.5, 2.5)).flips == 1  # the threshold itself is good


def test_near_the_threshold_nothing_is_decided() -> None:
    scores = [1.0, 2.6, 3.0, 4.0]
    assert judged(scores, Limits(margin=0.19, score=1e9), (2.5, 2.5)).flips == 1
    found = judged(scores, Limits(margin=0.21, score=1e9), (2.5, 2.5))
    assert (found.flips, found.compared) == (0, 2)


def test_without_a_threshold_the_order_counts() -> None:
    limits = Limits(margin=0.4, score=1e9)
    assert judged(REFERENCE, limits).compared == 5  # 3 and 4 are nearer than that
    assert judged([1.0, 2.0, 4.0, 3.0], limits).flips == 0
    assert judged([1.0, 3.1, 3.0, 4.0], limits).flips == 1
    assert judged([5.0, 5.0, 5.0, 5.0], limits).flips == 5


def test_low_scores_may_move_more_than_high_ones() -> None:
    assert judged([1.9, 2.0, 3.0, 4.0]).score_max == pytest.approx(0.9 / 2.5)
    assert judged([1.0, 2.0, 3.0, 5.0]).score_max == pytest.approx(0.25)
    assert not judged([1.0, 2.0, 3.0, 5.0], Limits(margin=0.1, score=0.2)).passed


def test_maps_may_move_by_a_part_of_their_range() -> None:
    exact = np.zeros((4, 2, 2), np.float32)
    exact[:, 0, 0] = [10.0, 10.0, 10.0, 0.1]  # the last image is nearly flat: the median range counts
    moved = exact.copy()
    moved[3, 1, 1] = 4.0
    assert judged(REFERENCE, Limits(margin=0.5, score=1e9, map=0.41), maps=(exact, moved)).passed
    found = judged(REFERENCE, Limits(margin=0.5, score=1e9, map=0.39), maps=(exact, moved))
    assert "map moved by 40%" in found.faults[0]


def test_the_auroc_may_differ_by_so_much() -> None:
    labels = np.array([False] * 50 + [True] * 50)
    exact = np.arange(100.0)
    one_pair = exact.copy()
    one_pair[[49, 50]] = one_pair[[50, 49]]
    many = exact.copy()
    many[40:60] = many[40:60][::-1]
    limits = Limits(margin=1e9, score=1e9)
    assert judged(REFERENCE, limits, evaluated=(exact, one_pair), labels=labels).auroc == pytest.approx(1 - 1 / 2500)
    found = judged(REFERENCE, limits, evaluated=(exact, many), labels=labels)
    assert found.auroc == pytest.approx(1 - 100 / 2500)
    assert not found.passed
    assert "AUROC" in found.faults[0]
    broken = np.where(exact == 99, np.nan, exact)
    for evaluated in ((exact, broken), (broken, exact)):
        found = judged(REFERENCE, limits, evaluated=evaluated, labels=labels)
        assert "scores of labelled images that are not finite" in found.faults


def test_runtimes_that_fail_alike_are_named_together() -> None:
    def judgement(runtime: str, *faults: str) -> Judgement:
        return Judgement(runtime=runtime, compared=1, flips=0, score_max=0.1, score_median=0.0, faults=list(faults))

    here, there = (f"image AUROC {area}, FP32 has 91.2" for area in ("88.1", "88.3"))
    assert reason_of([judgement("onnxruntime-cpu", here), judgement("openvino", here)]) == (
        f"onnxruntime-cpu and openvino: {here}"
    )
    assert reason_of([judgement("onnxruntime-cpu", here, "no evidence"), judgement("openvino", there)]) == (
        f"onnxruntime-cpu and openvino (figures of onnxruntime-cpu): {here}; onnxruntime-cpu: no evidence"
    )
    assert reason_of([judgement("onnxruntime-cpu"), judgement("openvino", there)]) == f"openvino: {there}"


@pytest.mark.parametrize("of", ["golden", "good", "defects"])
def test_scores_of_fp32_that_are_not_finite_pass_nothing(of) -> None:
    """Comparisons with NaN are false: a variant that clips where FP32 overflows would pass."""
    rng = np.random.default_rng(0)
    good, defects, golden = rng.random(40), 1 + rng.random(120), rng.random(5)
    spoiled = {"golden": golden.copy(), "good": good.copy(), "defects": defects.copy()}
    spoiled[of][3] = np.nan
    reference = HeldOutScores(spoiled["good"], spoiled["defects"])
    found = judge(
        "any", ANYTHING, Evidence(np.zeros((5, 1, 1, 1), np.uint8)), (spoiled["golden"], golden),
        held_out=(reference, HeldOutScores(good, defects)),
    )  # fmt: skip
    assert any("not finite" in fault for fault in found.faults)
