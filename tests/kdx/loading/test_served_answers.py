"""What a client of a server decides is what the bundle decides; and what says too little decides
nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.bundle.stored_threshold import ReviewBand
from kdx.decision.good_scores import GoodScores
from kdx.errors import InputError
from kdx.loading.served_answers import parameters_of, verdict_of_answer
from tests.kdx.test_lean_import import python

DECIDING = {
    *("kdx.rules", "kdx.input", "kdx.map_size", "kdx.frame_limits", "kdx.answer_limits"),
    *("kdx.threshold", "kdx.pixel_threshold"),
}


@pytest.fixture(scope="module")
def manifest(tiny_bundle):
    """With a review band from half of the threshold, and frame limits that are not the default."""
    found = open_bundle(tiny_bundle).manifest
    band = ReviewBand(score=0.5 * found.threshold.score, false_reject_rate=0.5, interval=(None, None))
    # Only what golden images show: the frames of these tests are no good images to compare with.
    limits = msgspec.structs.replace(found.frame_limits, bright=0.1 + 0.2, channels=())
    threshold = msgspec.structs.replace(found.threshold, review=band, scores=[])
    return msgspec.structs.replace(found, threshold=threshold, frame_limits=limits)


@pytest.fixture(scope="module")
def told(manifest):
    return parameters_of(manifest, manifest.threshold)


def answer(manifest, share: float) -> tuple[np.ndarray, np.ndarray]:
    """A map whose largest value, the score, is such a share of the threshold."""
    score = np.float32(share * manifest.threshold.score)
    anomaly_map = np.full(manifest.map_size, 0.1 * score, np.float32)
    anomaly_map[3, 4] = score
    return anomaly_map, np.array([score])


def test_everything_that_decides_travels_and_nothing_is_rounded(manifest, told):
    assert set(told) == DECIDING | {"kdx.review_threshold"}
    assert float(told["kdx.threshold"]) == manifest.threshold.score
    assert float(told["kdx.review_threshold"]) == manifest.threshold.review.score
    assert float(told["kdx.pixel_threshold"]) == manifest.threshold.pixel
    assert msgspec.json.decode(told["kdx.frame_limits"], type=type(manifest.frame_limits)) == manifest.frame_limits
    assert json.loads(told["kdx.frame_limits"])["bright"] == 0.1 + 0.2


@pytest.mark.parametrize(
    ("share", "decision"),
    [(0.4, "good"), (0.5, "good"), (0.6, "review"), (0.99, "review"), (1.01, "defective"), (np.nan, "undecided"),
     (np.inf, "undecided")],
)  # fmt: skip
def test_scores_are_decided_as_by_the_bundle(manifest, told, frame, share, decision):
    verdict = verdict_of_answer(*answer(manifest, share), frame, told)
    assert verdict.decision.value == decision
    assert verdict.is_good == (decision == "good")
    assert (verdict.threshold, verdict.review_threshold) == (
        manifest.threshold.score,
        manifest.threshold.review.score,
    )
    assert verdict.pixel_threshold == manifest.threshold.pixel


def test_frames_without_a_part_are_never_good(manifest, told, frame):
    verdict = verdict_of_answer(*answer(manifest, 0.1), np.zeros_like(frame), told)
    assert verdict.decision is kdx.Decision.UNDECIDED
    assert kdx.FrameFault.UNIFORM in verdict.frame_faults
    # Limits of the bundle, not of this code: 35 % of burnt-out samples are more than 25 % and less
    # than twice 30 %.
    bright = frame.copy()
    bright[: round(0.35 * len(frame))] = 255
    assert verdict_of_answer(*answer(manifest, 0.1), bright, told).is_good
    strict = {**told, "kdx.frame_limits": json.dumps({**json.loads(told["kdx.frame_limits"]), "bright": 0.0})}
    assert verdict_of_answer(*answer(manifest, 0.1), bright, strict).frame_faults == (kdx.FrameFault.SATURATED,)


def test_without_a_threshold_nothing_is_good(manifest, frame):
    told = parameters_of(manifest, None)
    assert set(told) == DECIDING - {"kdx.threshold", "kdx.pixel_threshold"}
    assert verdict_of_answer(*answer(manifest, 0.1), frame, told).decision is kdx.Decision.UNDECIDED


def test_the_p_value_is_that_of_the_bundles_own_detector(manifest, frame):
    kept = sorted(share * manifest.threshold.score for share in (0.1, 0.3, 0.5, 0.9))
    threshold = msgspec.structs.replace(manifest.threshold, scores=kept, images=40)
    told = parameters_of(manifest, threshold)
    for share in (0.05, 0.4, 2.0):
        anomaly_map, score = answer(manifest, share)
        verdict = verdict_of_answer(anomaly_map, score, frame, told)
        assert verdict.p_value == GoodScores.of(threshold).p_value(float(score[0]))
        assert verdict.held_out_images == 40
    anomaly_map, score = answer(manifest, 0.4)
    older = {name: text for name, text in told.items() if name not in {"kdx.scores", "kdx.images"}}
    assert verdict_of_answer(anomaly_map, score, frame, older).p_value is None
    fallen = {**told, "kdx.scores": json.dumps(kept[::-1] * 500)}
    with pytest.raises(InputError, match=r"the numbers of kdx\.scores do not rise") as caught:
        verdict_of_answer(anomaly_map, score, frame, fallen)
    assert len(caught.value.received) < 5000


@pytest.mark.parametrize(
    ("value", "score", "reason"),
    [
        (np.nan, 0.1, "not_finite"),
        (0.1, -3.4e38, "below_range"),
        (0.1, np.inf, "not_finite"),
        (-1.0, 0.1, "below_range"),
        (0.456, 0.1, "score_mismatch"),
        (0.1, 0.0, "score_mismatch"),
    ],
)
def test_an_answer_that_the_method_cannot_give_is_undecided(manifest, told, frame, value, score, reason):
    anomaly_map = np.full(manifest.map_size, 0.1, np.float32)
    anomaly_map[-1, -1] = value
    verdict = verdict_of_answer(anomaly_map, np.array([score], np.float32), frame, told)
    assert (verdict.decision.value, verdict.reason.value) == ("undecided", reason)
    assert np.isnan(verdict.score)


def test_a_model_that_says_nothing_of_the_score_is_decided_as_before(manifest, told, frame):
    limits = json.loads(told["kdx.answer_limits"])
    assert limits.pop("score_is_max") is True
    anomaly_map, _ = answer(manifest, 2.0)
    _, score = answer(manifest, 0.4)
    assert verdict_of_answer(anomaly_map, score, frame, told).reason is kdx.Reason.SCORE_MISMATCH
    assert verdict_of_answer(anomaly_map, score, frame, {**told, "kdx.answer_limits": json.dumps(limits)}).is_good


def test_parameters_are_taken_as_every_client_returns_them(manifest, told, frame):
    over_http = {name: {"string_value": text} for name, text in told.items()}
    over_grpc = {name: SimpleNamespace(string_value=text) for name, text in told.items()}
    others = {"intra_op_thread_count": "2", "kdx.precision": "fp32", "kdx.method": "stpm"}
    for given in (told, over_http, over_grpc, {**others, **told}):
        assert verdict_of_answer(*answer(manifest, 0.6), frame, given).decision is kdx.Decision.REVIEW
    # A threshold that somebody changed in config.pbtxt is the one that decides.
    stricter = {**told, "kdx.threshold": str(0.55 * manifest.threshold.score)}
    assert verdict_of_answer(*answer(manifest, 0.6), frame, stricter).decision is kdx.Decision.DEFECTIVE


@pytest.mark.parametrize("name", ["kdx.rules", "kdx.input", "kdx.map_size", "kdx.frame_limits", "kdx.answer_limits"])
def test_parameters_that_say_too_little_are_refused(manifest, told, frame, name):
    less = {key: text for key, text in told.items() if key != name}
    with pytest.raises(InputError, match="do not hold the decision rule") as caught:
        verdict_of_answer(*answer(manifest, 0.1), frame, less)
    assert "kdx triton" in caught.value.fix


@pytest.mark.parametrize(
    "changed",
    [
        {"kdx.threshold": "nan"}, {"kdx.threshold": "inf"}, {"kdx.threshold": "1e999"}, {"kdx.threshold": ""},
        {"kdx.threshold": '"0.3"'}, {"kdx.threshold": "0,3"}, {"kdx.review_threshold": "NaN"},
        {"kdx.review_threshold": "true"}, {"kdx.frame_limits": "{"}, {"kdx.frame_limits": '{"dark": "a"}'},
        {"kdx.rules": "2"}, {"kdx.rules": "0"}, {"kdx.input": '{"height": 0, "width": 64}'}, {"kdx.map_size": "[64]"},
        {"kdx.threshold": {"int64_value": "1"}},
    ],
)  # fmt: skip
def test_parameters_that_say_something_else_are_refused(manifest, told, frame, changed):
    with pytest.raises(InputError, match="do not hold the decision rule"):
        verdict_of_answer(*answer(manifest, 0.1), frame, {**told, **changed})


def test_a_model_that_an_older_kdx_wrote_is_refused(manifest, frame):
    older = {"kdx.threshold": "0.3", "kdx.pixel_threshold": "0.3", "kdx.precision": "fp32", "kdx.version": "0.1.0"}
    with pytest.raises(InputError, match="another version of kdx"):
        verdict_of_answer(*answer(manifest, 0.1), frame, older)


def test_answers_come_with_the_batch_or_without(manifest, told, frame):
    anomaly_map, score = answer(manifest, 0.4)
    for one, other in ((anomaly_map, score), (anomaly_map[None], score[None])):
        verdict = verdict_of_answer(one, other, frame[..., 0], told)
        assert verdict.is_good
        assert verdict.anomaly_map.shape == manifest.map_size


def test_answers_of_another_request_are_refused(manifest, told, frame):
    anomaly_map, score = answer(manifest, 0.4)
    wrong = [
        (None, score), (anomaly_map, None), (anomaly_map[:-1], score), (anomaly_map.astype(np.float64), score),
        (np.stack([anomaly_map] * 2), score), (anomaly_map, np.concatenate([score, score])),
        (anomaly_map, float(score[0])), (score, anomaly_map),
    ]  # fmt: skip
    for one, other in wrong:
        with pytest.raises(InputError, match="is not the answer for one frame"):
            verdict_of_answer(one, other, frame, told)
    for other_frame in (frame[:-1], frame.astype(np.float32), frame[None], None):
        with pytest.raises(InputError):
            verdict_of_answer(anomaly_map, score, other_frame, told)


def test_a_client_needs_no_runtime():
    heavy = ("torch", "onnxruntime", "openvino", "tritonclient", "kd_export")
    code = f"import kdx, sys; kdx.verdict_of_answer; print([name for name in {heavy} if name in sys.modules])"
    assert python(code) == "[]"
