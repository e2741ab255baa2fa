"""Detectors are pickled by their bundle's path and hash, and load the same bundle elsewhere."""

from __future__ import annotations

import functools
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.decision.rule import DecisionRule
from kdx.errors import BundleError, InputError
from kdx.runtime.detector import Detector
from tests.images import DEFECTS, published_bundle
from tests.students import other_bundle, other_student

CPU = ("onnxruntime-cpu", 1)


def again(detector):
    return pickle.loads(pickle.dumps(detector))


def test_the_same_detector_comes_out(tiny_bundle, frame, tmp_path, monkeypatch):
    shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")
    monkeypatch.chdir(tmp_path)
    with kdx.load("tile.kdx", *CPU, log="line.log", batch_sizes=(1, np.int64(3))) as detector:
        data = pickle.dumps(detector)
        assert len(data) < 3000  # neither weights nor maps
        monkeypatch.chdir("/")
        with pickle.loads(data) as other:
            ours, theirs = detector(frame), other(frame)
            assert (theirs.score, theirs.threshold, theirs.decision) == (ours.score, ours.threshold, ours.decision)
            np.testing.assert_array_equal(theirs.anomaly_map, ours.anomaly_map)
            assert (other.backend.name, other.precision) == ("onnxruntime-cpu", "fp32")
            assert other.origin == detector.origin
            assert other.log.path == tmp_path / "line.log"
            assert pickle.loads(pickle.dumps(theirs)).score == theirs.score


@pytest.mark.parametrize("data_set", DEFECTS)
def test_published_images_are_judged_alike_in_another_process(tiny_bundle, data_set, tmp_path):
    bundle, images = published_bundle(tmp_path, data_set, tiny_bundle)
    with kdx.load(bundle, *CPU) as detector:
        frames = [kdx.read_image(path, detector.input) for path in sorted(images.iterdir())]
        ours = detector.batch(frames)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            theirs = [*pool.map(detector, frames)]
    assert [(each.score, each.decision, each.p_value) for each in theirs] == [
        (each.score, each.decision, each.p_value) for each in ours
    ]
    assert len({each.score for each in ours}) == 4


def test_what_was_assigned_is_kept(tiny_bundle, frame):
    with kdx.load(tiny_bundle, *CPU) as detector:
        mask = np.full((detector.input.height, detector.input.width), 255, np.uint8)
        mask[:20] = 0
        detector.threshold, detector.review_threshold = 0.25, None
        detector.roi = detector.region_of_interest(mask)
        with again(detector) as other, again(other) as third:
            for each in (other, third):
                assert (each.threshold, each.review_threshold) == (0.25, None)
                assert each.pixel_threshold == detector.pixel_threshold
                assert each(frame).score == detector(frame).score
                assert not each(frame).anomaly_map[0].any()


def test_a_bundle_that_was_changed_is_refused(cli, bundle_copy, dataset, tmp_path):
    with kdx.load(bundle_copy, *CPU) as detector:
        data = pickle.dumps(detector)
    cli("calibrate", bundle_copy, dataset, "--false-reject-rate", 0.3)
    with pytest.raises(BundleError, match=r"was changed since(.|\n)*bundle\.json of sha256"):
        pickle.loads(data)
    bundle_copy.rename(tmp_path / "elsewhere.kdx")
    with pytest.raises(BundleError, match="there is no bundle"):
        pickle.loads(data)


def test_detectors_of_other_origins_say_why_they_cannot(tiny_bundle, tiny_run, frame):
    prometheus = pytest.importorskip("prometheus_client")
    with kdx.load(tiny_run, threads=1) as run:
        made = Detector(run.backend, run.input, DecisionRule(), max_batch=1)
        for detector in (run, made):
            with pytest.raises(InputError, match=r"was not loaded from a bundle(.|\n)*kdx export RUN"):
                pickle.dumps(detector)
    with (
        kdx.load(tiny_bundle, *CPU, metrics=prometheus.CollectorRegistry()) as counted,
        pytest.raises(InputError, match="`metrics` cannot be pickled"),
    ):
        pickle.dumps(counted)


@pytest.mark.parametrize("pickler", ["cloudpickle", "ray.cloudpickle"])
def test_the_picklers_of_joblib_and_ray_take_them(tiny_bundle, frame, pickler):
    cloudpickle = pytest.importorskip(pickler)
    with kdx.load(tiny_bundle, *CPU) as detector:
        score = detector(frame).score
        work = pickle.loads(cloudpickle.dumps(lambda image: detector(image).score))
        assert work(frame) == score


def test_a_group_shares_its_teacher_again(tiny_bundle, tmp_path, frame):
    pytest.importorskip("openvino")
    nut = other_bundle(tiny_bundle, tmp_path / "nut.kdx", functools.partial(other_student, seed=0))
    with kdx.load_many({"tile": tiny_bundle, "nut": nut}, threads=1, backend="openvino") as group:
        group["nut"].threshold = 0.5
        with again(group) as other, again(group["nut"]) as alone:
            assert other.teachers == group.teachers == (("tile", "nut"),)
            assert other["nut"].threshold == alone.threshold == 0.5
            expected = {name: verdict.score for name, verdict in group(frame).items()}
            assert {name: verdict.score for name, verdict in other(frame).items()} == expected
            assert alone(frame).score == pytest.approx(expected["nut"], rel=1e-5)
            data = pickle.dumps(other)
    with kdx.load_many([tiny_bundle], threads=1, backend="onnxruntime-cpu") as single, again(single) as other:
        assert list(other) == ["tiny"]
        assert other(frame)["tiny"].score == single(frame)["tiny"].score
    golden = next(nut.glob("golden/*.png"))
    Image.open(golden).transpose(Image.Transpose.ROTATE_180).save(golden)
    with pytest.raises(BundleError, match=Path(golden).name):
        pickle.loads(data)


def test_errors_keep_their_text_between_processes():
    error = BundleError("no bundle", expected="one", fix="make it")
    assert str(again(error)) == str(error)
    assert again(error).as_dict() == error.as_dict()
