"""The soak: a short one, and what it would see."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.images import solar_cells

RESULTS = Path(__file__).parents[2] / "benchmarks/results"

if sys.platform != "linux":
    pytest.skip("the tool reads what Linux says of processes", allow_module_level=True)


@pytest.fixture
def job(tiny_bundle, tmp_path, monkeypatch):
    from benchmarks.robustness import soak as robustness_soak
    from benchmarks.robustness.soak import Soak

    monkeypatch.setattr(robustness_soak, "_SAMPLES", 10)
    np.save(tmp_path / "frames.npy", solar_cells(5, (64, 64), channels=1))
    return Soak(
        bundle=str(tiny_bundle), images=str(tmp_path / "frames.npy"), backend="onnxruntime-cpu", precision="fp32",
        threads=1, frames=300, reload_every=100, fault_every=25,
    )  # fmt: skip


def test_a_short_soak(job) -> None:
    from benchmarks.robustness.soak import soak

    found = soak(job)
    assert (found.frames, found.reloads, found.crashes, found.differing) == (300, 2, 0, 0)
    assert found.refused == 300 // 25 + 2
    assert found.errors == []
    assert found.handles_grown == 0
    assert found.samples[0].pss_mb > 10


def test_answers_that_change_and_calls_that_fail_are_counted(job, monkeypatch) -> None:
    from benchmarks.robustness import soak as module
    from kdx.errors import BackendError
    from kdx.runtime.backend import Outputs

    load = module._load

    def faulty(job):
        detector = load(job)
        real, calls = detector.backend.run, []

        def run(batch):
            calls.append(1)
            if len(calls) == 30:
                raise BackendError("gone")
            maps, scores = real(batch)
            return Outputs(maps, scores + np.float32(len(calls) == 40))

        detector.backend.run = run
        return detector

    monkeypatch.setattr(module, "_load", faulty)
    found = module.soak(job)
    assert found.crashes == 3
    assert found.differing == 3
    assert found.frames == 297
    assert "gone" in found.errors[0]


def test_growth_is_told_from_a_warm_up() -> None:
    from benchmarks.robustness.soak import LEAK_MB, Sample, Soaked, judge_growth

    def samples(grow: float, handles: float = 0.0):
        return [
            Sample(n * 1000, n * 1.0, 0.0, 100.0 + min(n, 15) * 10 + grow * n / 200, 20 + int(handles * n), 4)
            for n in range(1, 201)
        ]

    flat = judge_growth(Soaked("x", "fp32", samples=samples(0.0)))
    assert (flat.leaks, flat.growth_mb, flat.handles_grown) == (0, 0.0, 0)
    assert flat.slope_mb == pytest.approx(0.0, abs=1e-6)
    assert len(flat.samples) <= 21
    growing = judge_growth(Soaked("x", "fp32", samples=samples(4 * LEAK_MB)))
    assert growing.leaks == 1
    assert growing.slope_mb == pytest.approx(2 * LEAK_MB, rel=0.01)  # 32 MB in 200,000 frames
    assert judge_growth(Soaked("x", "fp32", samples=samples(0.0, handles=0.1))).leaks == 1


def test_the_summary_adds_up_what_went_wrong() -> None:
    from benchmarks.robustness.run import summary

    threads = {"calls": 3200, "differing": 1, "errors": ["x"]}
    record = {
        "soak": [{"frames": 200_000, "hours": 0.25, "crashes": 1, "differing": 2, "leaks": 1}],
        "fuzz": [{"tried": 500, "faults": ["x", "y"]}, {"tried": 100, "faults": []}],
        "kill": {"kills": [{"kills": 40, "lost": ["a"]}], "races": [{"rounds": 5, "lost": ["b", "c"]}]},
        "threads": [
            {"one detector": threads, "closed meanwhile": [threads], "loaded and closed": threads},
            {"error": "signal 11"},
        ],
    }
    assert summary(record) == {
        "frames": 200_000, "hours": 0.25, "inputs_tried": 600, "kills": 40, "races": 5, "calls_of_threads": 9600,
        "crashes": 1 + 2 + 3 + 1, "differing": 2 + 3, "leaks": 1, "bundles_lost": 3,
    }  # fmt: skip
    assert summary({}) == dict.fromkeys(summary(record), 0)


def test_the_table_says_what_was_tried_and_what_went_wrong(tmp_path) -> None:
    from benchmarks.robustness.run import summary
    from benchmarks.robustness.table import robustness_table

    threads = {"threads": 16, "calls": 3200, "differing": 1, "errors": []}
    way = {"backend": "openvino", "precision": "int8"}
    soaked = {**way, "frames": 200_000, "hours": 0.25, "crashes": 1, "differing": 2, "leaks": 0, "growth_mb": 1.25}
    versions = {"onnxruntime": "1", "openvino": "2", "pillow": "3"}
    record = {
        "machine": {"cpu": "A CPU", "threads": 2, "system": "Linux 6", "versions": versions},
        "soak": [soaked],
        "fuzz": [{"target": "image", "tried": 500, "faults": ["x"]}],
        "kill": {"kills": [{"name": "calibrate", "kills": 40, "old": 30, "new": 9, "lost": ["a"]}], "races": []},
        "threads": [{**way, "one detector": threads, "closed meanwhile": [threads], "loaded and closed": threads}],
    }  # fmt: skip
    file = tmp_path / "robustness.json"
    file.write_text(json.dumps({"summary": summary(record), **record}))
    text = robustness_table(file)
    assert "200,000 in 0.2 h | 1 crashes, 0 leaks (memory grew by at most 1.2 MB), 2 answers that differ" in text
    assert "16 threads on one detector, some while it was loaded and closed | 9,600 | 3 answers" in text
    assert "| damaged files: image | 500 | 1 other than refused or answered as ever |" in text
    assert "calibrate | 40 | 1 bundles lost: 30 times the old one, 9 times the new one, whole |" in text
    assert "OpenVINO INT8" in text


def test_the_record_is_of_a_long_soak_without_a_fault() -> None:
    from benchmarks.robustness.run import summary

    record = json.loads((RESULTS / "robustness.json").read_text(encoding="utf-8"))
    assert record["summary"] == summary(record)
    assert record["summary"]["frames"] >= 200_000
    assert all(record["summary"][name] == 0 for name in ("crashes", "differing", "leaks", "bundles_lost"))
