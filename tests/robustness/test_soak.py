"""The soak: a short one, and what it would see."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.images import solar_cells

if sys.platform != "linux":
    pytest.skip("the tool reads what Linux says of processes", allow_module_level=True)


@pytest.fixture
def job(tiny_bundle, tmp_path, monkeypatch):
    from tests.robustness.tools import soak as robustness_soak
    from tests.robustness.tools.soak import Soak

    monkeypatch.setattr(robustness_soak, "_SAMPLES", 4)
    np.save(tmp_path / "frames.npy", solar_cells(5, (64, 64), channels=1))
    return Soak(
        bundle=str(tiny_bundle), images=str(tmp_path / "frames.npy"), backend="onnxruntime-cpu", precision="fp32",
        threads=1, frames=300, reload_every=100, fault_every=25,
    )  # fmt: skip


@pytest.mark.slow
def test_a_short_soak(job) -> None:
    from tests.robustness.tools.soak import soak

    found = soak(job)
    assert (found.frames, found.reloads, found.crashes, found.differing) == (300, 2, 0, 0)
    assert found.refused == 300 // 25 + 2
    assert found.errors == []
    assert found.handles_grown == 0
    assert found.samples[0].pss_mb > 10


@pytest.mark.slow
def test_answers_that_change_and_calls_that_fail_are_counted(job, monkeypatch) -> None:
    from kdx.errors import BackendError
    from kdx.runtime.backend import Outputs
    from tests.robustness.tools import soak as module

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


def test_growth_is_distinguished_from_a_warm_up() -> None:
    from tests.robustness.tools.soak import LEAK_MB, Sample, Soaked, judge_growth

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
