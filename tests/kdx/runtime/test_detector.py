"""The rule of a detector, which threads read as one value, and its observers."""

from __future__ import annotations

import dataclasses
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from kdx.decision.good_scores import GoodScores
from kdx.decision.level_map import Level
from kdx.decision.roi import Roi, RoiFrame
from kdx.decision.rule import DecisionRule
from kdx.decision.verdict import Decision, Verdict
from kdx.errors import InputError, OptionError
from kdx.imaging.images import InputSpec
from kdx.runtime import banded
from kdx.runtime.backend import ClosesOnExit, Outputs
from kdx.runtime.detector import Detector
from kdx.runtime.verdict_observer import JudgedFrame
from kdx.storage.stamps import stamp_of


class Brightest(ClosesOnExit):
    """A backend whose map is the image, and whose score is its maximum."""

    name = "brightest"

    def run(self, images: np.ndarray) -> Outputs:
        maps = images[..., 0].astype(np.float32)
        return Outputs(maps, maps.max(axis=(1, 2))[:, None])

    def close(self) -> None:
        pass


class Listener:
    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.shown: list[JudgedFrame] = []
        self.is_closed = False

    def add(self, verdict: Verdict, milliseconds: float, shown: JudgedFrame = JudgedFrame()) -> None:  # noqa: B008
        assert milliseconds >= 0
        self.verdicts.append(verdict)
        self.shown.append(shown)

    def close(self) -> None:
        self.is_closed = True


SPEC = InputSpec(height=4, width=4, channels=1)
FRAME = np.arange(16, dtype=np.uint8).reshape(4, 4)


def test_a_rule_does_not_change():
    rule = DecisionRule(threshold=10.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.threshold = 20.0


def test_assigning_an_attribute_gives_the_detector_another_rule():
    rule = DecisionRule(threshold=10.0, pixel_threshold=12.0)
    detector = Detector(Brightest(), SPEC, rule, max_batch=4)
    assert detector(FRAME).decision is Decision.DEFECTIVE
    detector.threshold = 20.0
    assert detector(FRAME).decision is Decision.GOOD
    assert (detector.threshold, detector.rule.threshold, rule.threshold) == (20.0, 20.0, 10.0)
    assert detector.pixel_threshold == 12.0


@pytest.mark.parametrize("name", ["threshold", "review_threshold", "pixel_threshold"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.inf, "0.5", True])
def test_a_threshold_that_no_score_exceeds_is_refused(name, value):
    detector = Detector(Brightest(), SPEC, DecisionRule(threshold=10.0), max_batch=4)
    with pytest.raises(OptionError, match=f"invalid `{name}`"):
        setattr(detector, name, value)
    assert detector(FRAME).decision is Decision.DEFECTIVE
    with pytest.raises(OptionError, match=name):
        DecisionRule(**{name: value})


def test_what_said_something_about_the_value_before_is_gone_with_it():
    good = GoodScores((1.0, 2.0, 3.0), 3, (1, 2, 3))
    frame = RoiFrame((4, 4), (4, 4), SPEC.view(1.0), "max")
    rule = DecisionRule(
        threshold=10.0, review_threshold=5.0, pixel_threshold=9.0, threshold_by_hand="to see", good_scores=good,
        roi_frame=frame,
    )  # fmt: skip
    level = Level(np.full((4, 4), 2.0, np.float32), "max")
    roi = Roi(np.eye(4, dtype=bool), frame)
    for name, value in (("threshold", 11.0), ("review_threshold", None), ("roi", roi), ("level", level)):
        detector = Detector(Brightest(), SPEC, rule, max_batch=4)
        setattr(detector, name, getattr(rule, name))
        assert (detector.threshold_by_hand, detector(FRAME).held_out_images) == ("to see", 3)
        setattr(detector, name, value)
        is_threshold = "threshold" in name
        assert detector.threshold_by_hand is None
        if not is_threshold:  # of another region or level map than the threshold
            thresholds = detector.threshold, detector.review_threshold, detector.pixel_threshold
            assert (thresholds, detector(FRAME).decision) == ((None, None, None), Decision.UNDECIDED)
        verdict = detector(FRAME)
        assert (verdict.held_out_images, verdict.p_value) == ((3, 0.25) if is_threshold else (0, None))
        setattr(detector, name, getattr(rule, name))  # what it was of is back
        assert (detector.threshold_by_hand, detector.good_scores) == ("to see", good)
        assert (detector.threshold, detector.review_threshold, detector.pixel_threshold) == (10.0, 5.0, 9.0)
    detector.roi, detector.level, detector.roi = roi, level, None
    assert (detector.good_scores, detector.threshold) == (None, None)
    detector.threshold = 11.0  # the caller's own, for this level map
    detector.roi = roi
    assert detector(FRAME).decision is Decision.GOOD
    detector = Detector(Brightest(), SPEC, dataclasses.replace(rule, roi=roi), max_batch=4)
    detector.roi, detector.threshold = Roi(roi.included.copy(), frame), 10
    assert (detector.good_scores, detector.threshold_by_hand) == (good, "to see")


def test_every_field_of_the_rule_is_an_attribute():
    detector = Detector(Brightest(), SPEC, DecisionRule(), max_batch=4)
    for field in dataclasses.fields(DecisionRule):
        assert getattr(detector, field.name) is getattr(detector.rule, field.name)


def test_observers_are_given_every_verdict_and_are_closed():
    log, metrics = Listener(), Listener()
    with Detector(Brightest(), SPEC, DecisionRule(threshold=10.0), max_batch=2, log=log, metrics=metrics) as detector:
        verdicts = [detector(FRAME), *detector.batch([FRAME, FRAME // 2, FRAME])]
    assert log.verdicts == metrics.verdicts == verdicts
    assert [verdict.decision.value for verdict in verdicts] == ["defective", "defective", "good", "defective"]
    assert log.is_closed
    assert metrics.is_closed


def test_observers_are_given_the_part_and_the_frame_of_each_verdict():
    log = Listener()
    with Detector(Brightest(), SPEC, DecisionRule(threshold=10.0), max_batch=2, log=log) as detector:
        detector(FRAME, part_id="7")
        detector.batch([FRAME, FRAME // 2, FRAME], part_ids=["8", None, "9"])
        with pytest.raises(InputError, match="each image shows one part"):
            detector.batch([FRAME, FRAME], part_ids=["8"])
    assert [shown.part_id for shown in log.shown] == ["7", "8", None, "9"]
    for shown, frame in zip(log.shown, (FRAME, FRAME, FRAME // 2, FRAME), strict=True):
        np.testing.assert_array_equal(shown.frame, frame[..., None])


def test_a_part_without_a_log_is_refused():
    with Detector(Brightest(), SPEC, DecisionRule(), max_batch=2) as detector:
        detector.batch([FRAME], part_ids=[None])
        for call in (lambda: detector(FRAME, part_id="7"), lambda: detector.batch([FRAME], part_ids=["7"])):
            with pytest.raises(InputError, match="`part_id` has no effect"):
                call()


def test_threads_that_assign_different_attributes_lose_none(monkeypatch):
    detector = Detector(Brightest(), SPEC, DecisionRule(threshold=1.0, review_threshold=0.5), max_batch=4)
    other = threading.Thread(target=setattr, args=(detector, "review_threshold", 15.0))

    def interrupted(rule, **changed):
        if "threshold" in changed:  # another thread assigns between reading the rule and storing it
            other.start()
            other.join(0.2)
        return dataclasses.replace(rule, **changed)

    monkeypatch.setattr("kdx.runtime.rule_fields.replace", interrupted)
    detector.threshold = 20.0
    other.join()
    assert (detector.threshold, detector.review_threshold) == (20.0, 15.0)


def test_observers_are_closed_even_if_the_backend_cannot_be():
    log, metrics, backend = Listener(), Listener(), Brightest()
    backend.close = lambda: pytest.fail("no device")
    detector = Detector(backend, SPEC, DecisionRule(), max_batch=2, log=log, metrics=metrics)
    with pytest.raises(pytest.fail.Exception, match="no device"):
        detector.close()
    assert log.is_closed
    assert metrics.is_closed


@pytest.mark.parametrize("wrong", [{"min_area": -1.0}, {"pixel_size_um": 0.0}])
def test_sizes_of_regions_are_refused_before_a_frame_in_bands_is_read(tmp_path, wrong):
    detector = Detector(Brightest(), SPEC, DecisionRule(), max_batch=1)
    with pytest.raises(OptionError, match=next(iter(wrong))):
        detector.judge_file(tmp_path / "frame.tiff", **wrong)


def test_the_log_is_given_the_file_of_a_frame_in_bands_as_it_was_before_it_was_read(tmp_path, monkeypatch):
    path = tmp_path / "frame.tiff"
    path.write_bytes(b"rows")
    before = stamp_of(path)

    def judge(*_: object, **__: object) -> SimpleNamespace:
        path.write_bytes(b"other rows")
        return SimpleNamespace(verdict=None)

    monkeypatch.setattr(banded, "judge_in_bands", judge)
    log = Listener()
    Detector(Brightest(), SPEC, DecisionRule(threshold=10.0), max_batch=1, log=log).judge_file(path)
    assert log.shown == [JudgedFrame(path=path, stamp=before)]
    assert stamp_of(path) != before
