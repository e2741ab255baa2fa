"""Only an answer that the method can give becomes a decision: NaN, infinity and impossible scores
are undecided."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.bundle.open import open_bundle
from kdx.bundle.pair_spec import Combine, Distance, Join, MapSpec, PairSpec, ScoreRule, Tap, decode_pair_spec
from kdx.decision.answers import ROUNDING, SCORE_TOLERANCE, AnswerFault, AnswerLimits, answer_limits
from kdx.decision.level_map import Level
from kdx.decision.regions import find_regions
from kdx.decision.rule import DecisionRule
from kdx.decision.verdict import Decision, Reason
from kdx.errors import DataError, GateError, InputError
from kdx.imaging.tiling import Stitcher, plan_tiles
from kdx.monitoring.verdict_log import read_log
from kdx.runtime.backend import Outputs
from kdx.runtime.detector import Detector
from kdx.runtime.tiled import Tiled
from tests.spoiled import spoil, spoiled_image, without_learned_limits

BACKENDS = ("onnxruntime-cpu", "openvino")
FILLED = np.full((8, 8), 0.25, np.float32)
LIMITS = AnswerLimits(0.0, 0.0)


def with_value(value, place=(7, 7)):
    anomaly_map = FILLED.copy()
    anomaly_map[place] = value
    return anomaly_map


# What is checked of one answer


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_a_fault(value):
    assert LIMITS.fault_of(with_value(value), 0.25) is AnswerFault.NOT_FINITE
    assert LIMITS.fault_of(np.full_like(FILLED, value), -3.4e38) is AnswerFault.NOT_FINITE
    assert LIMITS.fault_of(FILLED, value) is AnswerFault.NOT_FINITE


def test_opposite_infinities_and_large_values_do_not_hide_each_other():
    both = with_value(math.inf)
    both[0, 0] = -math.inf
    assert LIMITS.fault_of(both, 0.25) is AnswerFault.NOT_FINITE
    assert LIMITS.fault_of(np.full_like(FILLED, 3e38), 3e38) is None  # their sum is not finite, and they are


@pytest.mark.parametrize("score", [-3.4028235e38, -1.0, -1e-6])
def test_a_score_below_any_distance_is_a_fault(score):
    assert LIMITS.fault_of(FILLED, score) is AnswerFault.BELOW_RANGE
    assert LIMITS.fault_of(FILLED, 0.0) is None
    assert LIMITS.fault_of(with_value(score), 0.25) is AnswerFault.BELOW_RANGE


@pytest.mark.parametrize("score", [0.0, 0.25, 0.495, 0.505, 1.0, 3.4e38])
def test_a_score_that_is_not_the_maximum_of_its_map_is_a_fault(score):
    of_map = AnswerLimits(0.0, 0.0, score_is_max=True)
    assert of_map.fault_of(with_value(0.5), score) is AnswerFault.SCORE_MISMATCH
    assert LIMITS.fault_of(with_value(0.5), score) is None
    assert of_map.fault_of(with_value(0.5), math.nan) is AnswerFault.NOT_FINITE
    assert of_map.fault_of(with_value(-0.5), score) is AnswerFault.BELOW_RANGE


@pytest.mark.parametrize("largest", [0.0, 1e-40, 1e-30, 0.5, 3e38])
def test_a_maximum_rounded_to_any_format_is_the_maximum(largest):
    of_map = AnswerLimits(0.0, 0.0, score_is_max=True)
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[7, 7] = largest
    exact = float(anomaly_map.max())
    to_bf16 = 1 + 2.0**-9
    for score in (exact, exact * to_bf16, exact / to_bf16, exact if exact > 1e-37 else 0.0):
        assert of_map.fault_of(anomaly_map, score) is None
    assert SCORE_TOLERANCE == 2 * 2.0**-9


def test_marked_scores_are_nan_where_the_answer_is_wrong():
    maps = np.stack([FILLED, with_value(math.nan), FILLED])
    scores = np.array([[0.5], [0.5], [-1.0]], np.float32)
    np.testing.assert_array_equal(LIMITS.mark(maps, scores), np.array([[0.5], [math.nan], [math.nan]], np.float32))
    assert LIMITS.mark(maps[:1], scores[:1]) is not None
    np.testing.assert_array_equal(scores[1:, 0], np.array([0.5, -1.0], np.float32))  # the backend's memory stays


# The lowest values of a method


def lowest(*maps: MapSpec, join: Join = Join.SINGLE, score: ScoreRule = ScoreRule.MAX) -> AnswerLimits:
    return answer_limits(PairSpec(maps, join, score), (10, 10))


def map_of(combine: Combine, *distances: Distance, weight: float = 1.0) -> MapSpec:
    return MapSpec(tuple(Tap(f"layer{i}", each, weight) for i, each in enumerate(distances)), combine, 2.0)


EXACT = map_of(Combine.PRODUCT, *[Distance.HALF_SQUARED_L2] * 3)
COSINE = map_of(Combine.SUM, Distance.COSINE, Distance.COSINE, weight=1.5)


def test_half_squared_distances_are_never_negative():
    assert lowest(EXACT) == AnswerLimits(0.0, 0.0, score_is_max=True)
    assert lowest(EXACT, score=ScoreRule.SUM) == AnswerLimits(0.0, 0.0)


def test_cosine_distances_are_negative_by_rounding_alone():
    assert lowest(COSINE) == AnswerLimits(-3 * ROUNDING, -3 * ROUNDING, score_is_max=True)
    assert lowest(COSINE, score=ScoreRule.SUM) == AnswerLimits(-3 * ROUNDING, -300 * ROUNDING)
    found = lowest(map_of(Combine.PRODUCT, Distance.COSINE, Distance.COSINE))
    assert found.lowest_map == pytest.approx(-ROUNDING * (2 + ROUNDING))


def test_two_maps_are_joined():
    assert lowest(EXACT, COSINE, join=Join.SCORE_FIRST) == AnswerLimits(0.0, 0.0, score_is_max=True)
    assert lowest(EXACT, COSINE, join=Join.SCORE_SECOND) == AnswerLimits(0.0, -3 * ROUNDING)
    both = lowest(EXACT, COSINE, join=Join.SCORE_BOTH)
    assert both.lowest_score == pytest.approx(-3 * ROUNDING * (2 + ROUNDING) ** 3)
    confirmed = lowest(EXACT, COSINE, join=Join.CONFIRMED, score=ScoreRule.SUM)
    assert confirmed.lowest_map == pytest.approx(-6 * ROUNDING * (2 + ROUNDING) ** 3)
    assert confirmed.lowest_score == pytest.approx(100 * confirmed.lowest_map)


def test_the_score_is_the_maximum_where_the_declaration_says_so():
    for join in (Join.CONFIRMED, Join.SCORE_FIRST):
        assert lowest(EXACT, COSINE, join=join).score_is_max
        assert not lowest(EXACT, COSINE, join=join, score=ScoreRule.SUM).score_is_max
    for join in (Join.SCORE_SECOND, Join.SCORE_BOTH):
        assert not lowest(EXACT, COSINE, join=join).score_is_max


def test_every_distance_combination_join_and_rule_is_known():
    for distance in Distance:
        for combine in Combine:
            for join in Join:
                for rule in ScoreRule:
                    one = map_of(combine, distance)
                    found = lowest(one, one, join=join, score=rule) if join is not Join.SINGLE else lowest(one)
                    assert found != AnswerLimits() or distance is Distance.COSINE
                    assert -1 < found.lowest_map <= 0


@pytest.mark.parametrize("spec", [{}, {"maps": []}, {"maps": [{}], "score": "max"}, {"maps": 3}, {"join": [[]]}])
def test_a_declaration_that_says_nothing_leaves_what_holds_of_all_distances(spec):
    assert answer_limits(decode_pair_spec(spec), (10, 10)) == AnswerLimits(-ROUNDING, -ROUNDING)


@pytest.mark.slow
def test_no_method_answers_below_its_lowest(exported):
    """A perfect student gives the lowest answers; random features show that maps are not all
    zero."""
    import torch

    from kd_export.graph.tail import Tail

    spec = exported.detector.spec
    limits = answer_limits(spec, (32, 32))
    shapes = [(96, 8, 8)] * len(spec.taps)
    tail = Tail(spec, shapes, (32, 32)).eval()
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-12, 1e-3, 1.0, 300.0):
        for noise in (0.0, 1e-7, 1e-3, 1.0):
            features = []
            for channels, height, width in shapes:
                teacher = scale * torch.randn(4, channels, height, width, generator=generator)
                noise_of_student = scale * noise * torch.randn(teacher.shape, generator=generator)
                features.append((teacher, teacher + noise_of_student))
            maps, scores = tail(features)
            for anomaly_map, score in zip(maps.numpy(), scores.numpy()[:, 0], strict=True):
                assert limits.fault_of(anomaly_map, float(score)) is None
    assert -1 < limits.lowest_map <= 0
    assert limits.lowest_score > -32 * 32  # not so low that nothing is below it


# Verdicts, in every way to get one


@pytest.fixture(scope="module")
def spoiled(tiny_bundle, tmp_path_factory):
    return spoil(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("nan") / "tile.kdx"))


@pytest.fixture(scope="module")
def wrong(spoiled):
    return spoiled_image(open_bundle(spoiled).manifest)


def require_undecided(verdict, reason=Reason.NOT_FINITE):
    assert (verdict.decision, verdict.reason) == (Decision.UNDECIDED, reason)
    assert not verdict.is_good
    assert math.isnan(verdict.score)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_map_of_nan_is_undecided(spoiled, wrong, frame, backend):
    with kdx.load(spoiled, backend=backend, precision="fp32") as detector:
        require_undecided(detector(wrong))
        assert np.isnan(detector(wrong).anomaly_map).all()
        first, second, third = detector.batch([frame, wrong, frame])
        for verdict in (first, third, detector(frame)):
            assert verdict.decision is not Decision.UNDECIDED
            assert verdict.reason is None
        require_undecided(second)
        assert np.isnan(detector.outputs([frame, wrong]).scores[:, 0]).tolist() == [False, True]
        mask = np.zeros(wrong.shape[:2], np.uint8)
        mask[:32] = 255
        other = detector(wrong, roi=mask)
        assert other.reason is Reason.NOT_FINITE
        assert detector(frame, roi=mask).reason is Reason.OTHER_REGION


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_one_value_is_enough(tiny_bundle, tmp_path, backend, value):
    corner = (slice(0, 1), slice(0, 1))
    bundle = spoil(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"), value=value, where=corner)
    reason = Reason.NOT_FINITE if not math.isfinite(value) else Reason.BELOW_RANGE
    with kdx.load(bundle, backend=backend, precision="fp32") as detector:
        image = spoiled_image(open_bundle(bundle).manifest)
        require_undecided(detector(image), reason)
        # Also where the region of interest leaves it out.
        mask = np.full(image.shape[:2], 255, np.uint8)
        mask[:32, :32] = 0
        detector.roi = detector.region_of_interest(mask)
        require_undecided(detector(image), reason)
        detector.level = Level(np.full_like(detector(image).anomaly_map, 2.0), "max")
        require_undecided(detector(image), reason)


@pytest.mark.parametrize("score", [-3.4028235e38, -1.0, math.nan, math.inf])
def test_an_impossible_score_of_a_sound_map_is_undecided(tiny_bundle, tmp_path, score):
    bundle = spoil(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"), score=score)
    with kdx.load(bundle, backend="onnxruntime-cpu") as detector:
        verdict = detector(spoiled_image(open_bundle(bundle).manifest))
    require_undecided(verdict, Reason.BELOW_RANGE if math.isfinite(score) else Reason.NOT_FINITE)
    assert np.isfinite(verdict.anomaly_map).all()


@pytest.fixture(scope="module")
def mismatched(tiny_bundle, tmp_path_factory):
    """A score of 0 beside a map that is right: what a runtime answers whose maximum fails."""
    return spoil(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("score") / "tile.kdx"), score=0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_score_that_is_not_that_of_its_map_is_undecided(mismatched, wrong, frame, backend):
    with kdx.load(mismatched, backend=backend, precision="fp32") as detector:
        verdict = detector(wrong)
        require_undecided(verdict, Reason.SCORE_MISMATCH)
        assert verdict.anomaly_map.max() > 0
        first, second, third = detector.batch([frame, wrong, frame])
        require_undecided(second, Reason.SCORE_MISMATCH)
        assert first.reason is third.reason is None
        assert np.isnan(detector.outputs([frame, wrong]).scores[:, 0]).tolist() == [False, True]
        detector.level = Level(np.full_like(verdict.anomaly_map, 2.0), "max")
        require_undecided(detector(wrong), Reason.SCORE_MISMATCH)


def test_a_score_of_a_shared_teacher_is_compared_with_its_map(mismatched, tiny_bundle, wrong):
    bundles = {"wrong": mismatched, "right": tiny_bundle}
    with kdx.load_many(bundles, precision="fp32", shared_teacher=True) as group:
        verdicts = group(wrong)
    require_undecided(verdicts["wrong"], Reason.SCORE_MISMATCH)
    assert math.isfinite(verdicts["right"].score)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_several_bundles_are_checked_each(spoiled, tiny_bundle, wrong, shared):
    with kdx.load_many({"wrong": spoiled, "right": tiny_bundle}, precision="fp32", shared_teacher=shared) as group:
        verdicts = group(wrong)
        require_undecided(verdicts["wrong"])
        assert math.isfinite(verdicts["right"].score)
        require_undecided(group["wrong"](wrong))


@pytest.mark.parametrize("place", [(0, 0), (15, 0), (8, 8)])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_a_value_of_one_tile_is_not_hidden_by_stitching(place, value):
    """The first two lie in the halo, which is thrown away where the tile has a neighbour there."""
    plan = plan_tiles((40, 40), (16, 16), overlap=8, halo=4)

    class Local:
        name, max_batch, calls = "local", 3, 0

        def run(self, images):
            maps = np.full((len(images), 16, 16), 0.25, np.float32)
            if self.calls == 2:
                maps[1][place] = value
            self.calls += 1
            return Outputs(maps, np.full((len(images), 1), 0.25, np.float32))

    found = Tiled(Local(), Stitcher(plan, (16, 16), (16, 16)), LIMITS).run(np.zeros((1, 40, 40, 1), np.uint8))
    assert np.isnan(found.scores).all()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", [{}, {"score": 0.0}])
def test_a_frame_with_one_wrong_tile_is_undecided(tiled, tmp_path, backend, how):
    bundle = spoil(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx"), **how)
    manifest = without_learned_limits(bundle)
    image = np.full((manifest.camera.height, manifest.camera.width, manifest.camera.channels), 120, np.uint8)
    image[::2] = 100
    tile = manifest.input
    with kdx.load(bundle, backend=backend, precision="fp32") as detector:
        assert detector(image).reason is None
        image[: tile.height, : tile.width] = 245
        verdict = detector(image)
        assert verdict.decision is Decision.UNDECIDED
        assert verdict.reason is Reason.NOT_FINITE
        assert np.isfinite(verdict.anomaly_map).any()


def test_a_run_is_checked_as_a_bundle_is(tiny_run, frame):
    with kdx.load(tiny_run) as detector:
        assert detector.answer_limits == AnswerLimits(0.0, 0.0, score_is_max=True)
        assert detector(frame).reason is Reason.NO_THRESHOLD
        run = detector.backend.run
        detector.backend.run = lambda images: Outputs(*(np.full_like(each, np.nan) for each in run(images)))
        assert detector(frame).reason is Reason.NOT_FINITE
        detector.backend.run = lambda images: Outputs(run(images).maps, np.full((len(images), 1), -1, np.float32))
        assert detector(frame).reason is Reason.BELOW_RANGE


def test_images_on_the_gpu_are_checked_by_their_answers(tiny_bundle):
    class OnDevice:
        name, accepts_device_arrays = "fake", True

        def run(self, images):
            return Outputs(np.full((1, 8, 8), np.nan, np.float32), np.full((1, 1), -3.4e38, np.float32))

    from kdx.runtime.device_arrays import DeviceArray

    spec = open_bundle(tiny_bundle).manifest.input
    detector = Detector(OnDevice(), spec, DecisionRule(threshold=1.0), max_batch=1)
    verdict = detector(DeviceArray(4096, (spec.height, spec.width, spec.channels), None, None, None))
    require_undecided(verdict)
    assert not verdict.frame_checked


# Commands, logs and pictures


@pytest.fixture(scope="module")
def folder(spoiled, wrong, frame, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, pixels in (("part", frame), ("wrong", wrong)):
        Image.fromarray(pixels[..., 0]).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_predict_says_why(cli, spoiled, folder, tmp_path, backend):
    options = ("--backend", backend)
    maps = ("--overlay", tmp_path / "maps")
    part, wrong = cli("predict", spoiled, folder, "--json", "--regions", *options, *maps).lines
    assert "reason" not in part
    assert (wrong["verdict"], wrong["reason"], wrong["score"]) == ("undecided", "not_finite", None)
    assert wrong["regions"] is None
    assert len(list((tmp_path / "maps").iterdir())) == 2
    assert "map or score is not finite" in cli("predict", spoiled, folder / "wrong.png", *options).stdout


@pytest.mark.slow
def test_an_archive_keeps_why(cli, spoiled, folder, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    cli("score", spoiled, folder, "-o", tmp_path / "out", "--backend", "openvino", "--batch", 2)
    (shard,) = (tmp_path / "out/shards").glob("*.parquet")
    rows = {row["path"]: row for row in parquet.read_table(shard).to_pylist()}
    assert (rows["wrong.png"]["decision"], rows["wrong.png"]["reason"]) == ("undecided", "not_finite")
    assert rows["part.png"]["decision"] != "undecided"
    assert rows["part.png"]["reason"] == ""


def test_evaluate_and_calibrate_refuse_answers_that_are_none(cli, spoiled, make_dataset, wrong, tmp_path):
    data = make_dataset(tmp_path / "data", train=24)
    Image.fromarray(wrong[..., 0]).save(data / "test/good/wrong.png")
    shown = cli("evaluate", spoiled, data, "--backend", "openvino", code=GateError.exit_status).stderr
    assert "not finite" in shown
    assert "wrong.png" in shown
    Image.fromarray(wrong[..., 0]).save(data / "train/good/wrong.png")
    for option in ((), ("--per-position",)):
        options = ("--false-reject-rate", 0.3, "--backend", "openvino", *option)
        shown = cli("calibrate", spoiled, data, *options, code=DataError.exit_status).stderr
        assert "not finite" in shown


def test_logs_and_metrics_do_not_count_a_score_that_is_none(spoiled, wrong, frame, tmp_path):
    with kdx.load(spoiled, backend="openvino", precision="fp32", log=tmp_path / "log.db") as detector:
        detector(wrong)
        detector(frame)
    logged = read_log(tmp_path / "log.db")
    assert logged.decisions[0] == "undecided"
    assert np.isnan(logged.scores).tolist() == [True, False]


@pytest.mark.parametrize("how", [{"value": -1.0, "where": (slice(0, 1), slice(0, 1))}, {"score": 0.0}])
def test_a_finite_map_of_an_answer_that_is_none_has_no_regions(cli, tiny_bundle, folder, wrong, tmp_path, how):
    """An empty list would say that there is nothing on the part."""
    bundle = spoil(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx"), **how)
    with kdx.load(bundle, backend="openvino", precision="fp32") as detector:
        verdict = detector(wrong)
        assert np.isfinite(verdict.anomaly_map).all()
        with pytest.raises(InputError, match=rf"no regions(.|\n)*received: {verdict.reason.value}"):
            detector.regions(verdict)
    options = ("--json", "--regions", "--backend", "openvino")
    part, other = cli("predict", bundle, folder, *options).lines
    assert part["regions"] is not None
    assert other["regions"] is None


def test_a_map_that_is_not_finite_has_no_regions(spoiled, wrong):
    with kdx.load(spoiled, backend="openvino", precision="fp32") as detector:
        verdict = detector(wrong)
        with pytest.raises(InputError, match=r"no regions(.|\n)*received: not_finite"):
            detector.regions(verdict)
        with pytest.raises(InputError, match="invalid answer has no regions"):
            find_regions(verdict.anomaly_map, 0.5, wrong.shape[:2])


@pytest.mark.parametrize("limit", [0.5, None])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_heat_maps_show_what_is_not_finite(limit, value, recwarn):
    from kdx.decision.overlay import heat_layer

    cold = heat_layer(FILLED, (64, 64), limit)
    shown = heat_layer(with_value(value, (0, 0)), (64, 64), limit)
    assert shown[0, 0, 3] > 150
    assert (shown[40:, 40:] == cold[40:, 40:]).all() or limit is None
    assert not recwarn.list
    assert heat_layer(np.full_like(FILLED, value), (64, 64), limit)[..., 3].min() > 150
