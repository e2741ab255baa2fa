"""Prometheus metrics: what was judged, counted; nothing of it loaded where it is not asked for."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.errors import OptionError
from kdx.imaging.frame_faults import FrameFault
from kdx.monitoring.drift import EFFECT, FEWEST_VERDICTS, SIGNIFICANCE, compare
from kdx.monitoring.judged_by import JudgedBy
from kdx.monitoring.prometheus import Metrics
from kdx.monitoring.verdict_log import read_log

prometheus = pytest.importorskip("prometheus_client")
LABELS = {"bundle": "tiny.kdx", "precision": "fp32", "runtime": "onnxruntime"}


@pytest.fixture
def registry():
    return prometheus.CollectorRegistry()


def load(bundle, registry):
    return kdx.load(bundle, backend="onnxruntime-cpu", precision="fp32", metrics=registry)


def verdicts(registry) -> dict[str, float]:
    decisions = [decision.value for decision in kdx.Decision]
    return {one: registry.get_sample_value("kdx_verdicts_total", {**LABELS, "decision": one}) for one in decisions}


def test_verdicts_and_their_time_are_counted(tiny_bundle, frame, registry):
    with load(tiny_bundle, registry) as detector:
        assert set(verdicts(registry).values()) == {0.0}
        found = [detector(frame), *detector.batch([frame, frame]), detector(np.zeros_like(frame))]
    counted = {one.value: sum(verdict.decision is one for verdict in found) for one in kdx.Decision}
    assert verdicts(registry) == counted
    assert registry.get_sample_value("kdx_verdict_seconds_count", LABELS) == 4
    assert 0 < registry.get_sample_value("kdx_verdict_seconds_sum", LABELS) < 60


def test_two_detectors_of_a_bundle_are_counted_together(tiny_bundle, frame, registry):
    for _ in range(2):
        with load(tiny_bundle, registry) as detector:
            detector(frame)
    assert sum(verdicts(registry).values()) == 2


def test_two_bundles_in_folders_of_one_name_are_named(tiny_bundle, tmp_path, registry, recwarn):
    """Loading one bundle again is no doubt, nor is it under another path."""
    (tmp_path / "link").symlink_to(tiny_bundle.parent)
    for path in (tiny_bundle, tiny_bundle, tmp_path / "link" / tiny_bundle.name):
        Metrics(registry, open_bundle(path), "fp32", "onnxruntime")
    assert not [each for each in recwarn if "share their metrics" in str(each.message)]
    other = Path(shutil.copytree(tiny_bundle, tmp_path / "other" / tiny_bundle.name))
    with pytest.warns(UserWarning, match="share their metrics, which are named 'tiny.kdx'"):
        Metrics(registry, open_bundle(other), "fp32", "onnxruntime")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such name")
def test_a_bundle_is_named_by_its_folder_however_it_is_given(tiny_bundle, frame, tmp_path, registry, monkeypatch):
    strange = Path(shutil.copytree(tiny_bundle, tmp_path / os.fsdecode(b"tile-\xff.kdx")))
    for folder, name in ((tiny_bundle, "tiny.kdx"), (strange, "tile-\\udcff.kdx")):
        monkeypatch.chdir(folder)
        log = tmp_path / f"{name}.log"
        with kdx.load(".", "onnxruntime-cpu", 1, precision="fp32", metrics=registry, log=log) as detector:
            detector(frame)
            assert JudgedBy.of(detector, open_bundle(".")).bundle == read_log(log).facts.bundle == name
        assert f'bundle="{name}"'.replace("\\", "\\\\") in prometheus.generate_latest(registry).decode()


def test_runtimes_are_kept_apart(tiny_bundle, registry):
    """Each has its own latency, and in BF16 and INT8 its own scores and calibration."""
    calibrated = open_bundle(tiny_bundle)
    ours, theirs = (Metrics(registry, calibrated, "fp32", runtime) for runtime in ("onnxruntime", "openvino"))
    for _ in range(FEWEST_VERDICTS):
        ours.add(kdx.Verdict(kdx.Decision.GOOD, 1e9, 1.0, np.zeros((2, 2), np.float32)), 1.0)
    theirs.add(kdx.Verdict(kdx.Decision.DEFECTIVE, 1e9, 1.0, np.zeros((2, 2), np.float32)), 1.0)
    other = {**LABELS, "runtime": "openvino"}
    assert verdicts(registry)["defective"] == 0
    assert registry.get_sample_value("kdx_verdicts_total", {**other, "decision": "defective"}) == 1
    assert registry.get_sample_value("kdx_drift_effect", LABELS) == 1.0
    assert np.isnan(registry.get_sample_value("kdx_drift_effect", other))


def test_drift_is_that_of_kdx_drift(tiny_bundle, registry):
    calibrated = np.array(open_bundle(tiny_bundle).manifest.threshold.scores)
    with load(tiny_bundle, registry) as detector:

        def add(scores) -> None:
            for score in scores:
                anomaly_map = np.zeros((2, 2), np.float32)
                detector.metrics.add(kdx.Verdict(kdx.Decision.GOOD, float(score), 1.0, anomaly_map), 1.0)

        def effect() -> float:
            return registry.get_sample_value("kdx_drift_effect", LABELS)

        add([calibrated.mean(), np.nan] * (FEWEST_VERDICTS - 1))
        assert np.isnan(effect())  # too few to say
        add([calibrated.mean()])
        assert effect() == compare(np.full(FEWEST_VERDICTS, calibrated.mean()), calibrated).effect
        score, anomaly_map = float(calibrated.max() * 2), np.zeros((2, 2), np.float32)
        for why in ({"frame_faults": (FrameFault.DARK,)}, {"reason": kdx.Reason.OTHER_REGION}):
            for _ in range(500):  # a frame that shows no part, and a score of another region
                detector.metrics.add(kdx.Verdict(kdx.Decision.UNDECIDED, score, 1.0, anomaly_map, **why), 1.0)
        assert effect() == compare(np.full(FEWEST_VERDICTS, calibrated.mean()), calibrated).effect
        add([calibrated.max() * 2] * 500)  # the latest alone count
        assert effect() == 1.0


def test_an_alarm_is_that_of_kdx_drift(tiny_bundle, registry):
    """A difference that few scores have by chance is none, however large it is."""
    bundle = open_bundle(tiny_bundle)
    calibrated = np.array(bundle.manifest.threshold.scores)
    metrics = Metrics(registry, bundle, "fp32", "onnxruntime")

    def add(scores) -> None:
        for score in scores:
            metrics.add(kdx.Verdict(kdx.Decision.GOOD, float(score), 1.0, np.zeros((2, 2), np.float32)), 1.0)

    def read(name: str) -> float:
        return registry.get_sample_value(f"kdx_drift_{name}", LABELS)

    assert np.isnan(read("alarm"))
    same = np.resize(calibrated, FEWEST_VERDICTS - 16)
    add([*same, *[calibrated.max() * 2] * 16])
    assert EFFECT < read("effect") < 0.5
    assert compare(np.array([*same, *[calibrated.max() * 2] * 16]), calibrated).p_value > SIGNIFICANCE
    assert read("alarm") == 0
    add([calibrated.max() * 2] * 500)
    assert (read("effect"), read("alarm")) == (1.0, 1.0)
    add([calibrated.max() * 2, *np.resize(calibrated, 499)])  # what is compared is what is there now
    assert (read("effect") < EFFECT, read("alarm")) == (True, 0.0)


def test_without_a_calibration_there_is_no_drift(raw_bundle, registry):
    with load(raw_bundle, registry):
        assert registry.get_sample_value("kdx_drift_effect", LABELS) is None
        assert registry.get_sample_value("kdx_drift_alarm", LABELS) is None


def test_a_bundle_without_calibration_does_not_show_the_drift_of_the_one_before(tiny_bundle, raw_bundle, registry):
    Metrics(registry, open_bundle(tiny_bundle), "fp32", "onnxruntime")
    replaced = SimpleNamespace(path=tiny_bundle, manifest=open_bundle(raw_bundle).manifest)
    Metrics(registry, replaced, "fp32", "onnxruntime")
    for name in ("effect", "alarm"):
        assert registry.get_sample_value(f"kdx_drift_{name}", LABELS) is None
    Metrics(registry, open_bundle(tiny_bundle), "fp32", "onnxruntime")
    assert np.isnan(registry.get_sample_value("kdx_drift_effect", LABELS))


def test_what_cannot_be(tiny_bundle, tiny_run, registry, monkeypatch):
    with pytest.raises(OptionError, match="CollectorRegistry"):
        kdx.load(tiny_bundle, metrics="yes")
    with pytest.raises(OptionError, match="only bundles keep"):
        kdx.load(tiny_run, metrics=registry)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(OptionError, match=r"kdx\[metrics\]"):
        load(tiny_bundle, True)


def test_nothing_is_imported_where_it_is_not_asked_for(tiny_bundle, frame):
    import subprocess

    code = (
        "import sys, kdx, numpy\n"
        f"detector = kdx.load(sys.argv[1], backend='onnxruntime-cpu')\n"
        f"detector(numpy.zeros({frame.shape}, numpy.uint8))\n"
        "assert not {'prometheus_client', 'kdx.monitoring.prometheus', 'kdx.monitoring.drift'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_bundle)], check=True)
