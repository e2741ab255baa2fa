"""Sixteen threads on one detector, on every backend and in every precision that runs on a CPU."""

from __future__ import annotations

import numpy as np
import pytest

from kdx.runtime.backend_table import BACKENDS
from tests.images import solar_cells
from tests.robustness.cpu_backends import BACKEND_PRECISION_PAIRS

THREADS, CALLS = 16, 20  # the benchmark makes more


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """A real image for each thread."""
    return solar_cells(THREADS, (64, 64), channels=1)


def test_no_backend_for_cpus_is_forgotten() -> None:
    for_cpus = {info.name for info in BACKENDS.values() if not info.needs_gpu}
    assert {backend for backend, _ in BACKEND_PRECISION_PAIRS} == for_cpus | {"torch"}


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "precision"), BACKEND_PRECISION_PAIRS)
def test_sixteen_threads_get_what_one_gets(load, images, backend, precision) -> None:
    from tests.robustness.tools.threads import hammer

    with load(backend, precision) as detector:
        found = hammer(detector, images, CALLS if backend != "torch" else CALLS // 10)
    assert found.errors == []
    assert found.differing == 0
    assert found.calls == THREADS * (CALLS if backend != "torch" else CALLS // 10)


@pytest.mark.parametrize(("backend", "precision"), BACKEND_PRECISION_PAIRS)
def test_a_detector_that_is_closed_under_its_threads_refuses_or_answers(load, images, backend, precision) -> None:
    from tests.robustness.tools.threads import close_while_judging

    found = close_while_judging(lambda: load(backend, precision), images, 20)
    assert found.errors == []
    assert found.differing == 0
    assert found.calls + found.refused == THREADS * 20
    assert found.refused > 0


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime-cpu", "fp32"), ("openvino", "int8")])
def test_loading_and_closing_in_several_threads(load, images, backend, precision) -> None:
    from tests.robustness.tools.threads import load_and_close

    found = load_and_close(lambda: load(backend, precision), images, 8, 2)
    assert found.errors == []
    assert found.differing == 0
    assert found.calls == 8 * 2


def test_the_tool_sees_answers_that_differ_and_threads_that_fail(load, images) -> None:
    from kdx.runtime.backend import Outputs
    from tests.robustness.tools.threads import hammer

    with load("onnxruntime-cpu") as detector:
        real, calls = detector.backend.run, []

        def wrong_in_the_end(batch: np.ndarray) -> Outputs:
            calls.append(1)
            if len(calls) > THREADS + 20:
                raise ValueError("boom")
            maps, scores = real(batch)
            return Outputs(maps, scores * np.float32(1 if len(calls) <= THREADS + 10 else 1.0000002))

        detector.backend.run = wrong_in_the_end
        found = hammer(detector, images, 5)
    assert found.differing > 0
    assert any("boom" in error for error in found.errors)
