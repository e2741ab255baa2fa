"""A process that was forked after a detector was loaded gets an error, and does not hang."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np
import pytest

import kdx
from kdx.loading.group import DetectorGroup
from tests.images import DEFECTS, published_bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def in_fork(work: Callable[[], object]) -> str:
    """Return what some work raises in a forked process; that process ends without cleaning up."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(60)  # ends a child that hangs, which is the failure that this file is about
        try:
            said = f"returned {work()}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return said


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino"])
def test_a_forked_worker_is_told_to_load_for_itself(tiny_bundle, frame, backend):
    pytest.importorskip(backend.partition("-")[0])
    with kdx.load(tiny_bundle, backend, 1) as detector:
        group = DetectorGroup({"tile": detector})
        ours = detector(frame)
        calls = [
            lambda: detector(frame),
            lambda: detector.batch([frame, frame]),
            lambda: detector.outputs([frame]),
            lambda: group(frame),
        ]
        for call in calls:
            said = in_fork(call)
            assert said.startswith("ForkError: the detector was loaded before this process was forked"), said
            assert "in each worker" in said
        # Freeing what the other process still uses could end this one.
        assert in_fork(lambda: (detector.close(), group.close())) == "returned (None, None)"
        assert detector(frame).score == ours.score


@pytest.mark.parametrize("data_set", DEFECTS)
def test_forked_workers_judge_published_images_with_detectors_of_their_own(tiny_bundle, data_set, tmp_path):
    bundle, images = published_bundle(tmp_path, data_set, tiny_bundle)

    def scores() -> list[float]:
        with kdx.load(bundle, "onnxruntime-cpu", 1) as own:
            return [own(frame).score for frame in frames]

    with kdx.load(bundle, "onnxruntime-cpu", 1) as detector:
        frames = [kdx.read_image(path, detector.input) for path in sorted(images.iterdir())]
        assert in_fork(lambda: detector(frames[0])).startswith("ForkError")
        assert in_fork(scores) == f"returned {[detector(frame).score for frame in frames]}"


def test_what_a_forked_worker_loads_works_or_is_refused(tiny_bundle, frame, monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    monkeypatch.setenv("KDX_CACHE_DIR", str(tmp_path))
    with kdx.load(tiny_bundle, threads=1) as detector:  # measures OpenVINO and ONNX Runtime here
        score = kdx.load(tiny_bundle, "onnxruntime-cpu", 1)(frame).score
        assert in_fork(lambda: kdx.load(tiny_bundle, "onnxruntime-cpu", 1)(frame).score) == f"returned {score}"
        assert in_fork(lambda: kdx.load(tiny_bundle, "openvino", 1)).startswith("ForkError: OpenVINO was used before")
        remembered = {path: path.read_bytes() for path in tmp_path.glob("**/*.json")}
        assert remembered
        in_fork(lambda: kdx.load(tiny_bundle, threads=1))
        in_fork(lambda: kdx.load(tiny_bundle, threads=2))  # nothing is remembered of two threads
        assert {path: path.read_bytes() for path in tmp_path.glob("**/*.json")} == remembered
        assert np.isfinite(detector(frame).score)
