"""A runtime that fails while it runs: a BackendError, and the next call works."""

from __future__ import annotations

import numpy as np
import pytest

from kdx.bundle.checked_files import Graph
from kdx.errors import BackendError, InputError
from tests.images import solar_cells
from tests.robustness.cpu_backends import BACKEND_PRECISION_PAIRS


class BoomError(Exception):
    """What no runtime of ours raises."""


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return solar_cells(4, (64, 64), channels=1)


def break_once(monkeypatch, backend, error: Exception) -> None:
    """Let the runtime beneath a backend fail at its next inference."""

    def fail(*args: object, **kwargs: object) -> None:
        monkeypatch.undo()
        raise error

    class Failing:
        """A runtime's object, which has no attributes of its own to replace."""

        def __init__(self, real: object) -> None:
            self.real = real

        def __getattr__(self, name: str) -> object:
            return fail if name in {"run", "infer", "start_async"} else getattr(self.real, name)

    if backend.name == "onnxruntime-cpu":
        monkeypatch.setattr(backend, "_session", Failing(backend._session))
    elif backend.name == "torch":
        monkeypatch.setattr(type(backend._module), "forward", fail)
    elif backend.name == "openvino":
        compiled = backend._models.get(1)
        request, tensors = compiled._idle.get()  # the only one
        compiled._idle.put((Failing(request), tensors))
    else:
        compiled = backend._models.get(1)
        monkeypatch.setattr(compiled, "_all", Failing(compiled._all))


@pytest.mark.parametrize(
    "error", [BoomError("gone"), RuntimeError("gone"), MemoryError("gone")], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize(("backend", "precision"), BACKEND_PRECISION_PAIRS)
def test_a_failure_is_a_backend_error_and_the_next_call_works(
    load, images, backend, precision, error, monkeypatch
) -> None:
    with load(backend, precision) as detector:
        before = detector(images[0])
        break_once(monkeypatch, detector.backend, error)
        with pytest.raises(BackendError, match="gone"):
            detector(images[0])
        after = detector(images[0])
        assert after.score == before.score
        np.testing.assert_array_equal(after.anomaly_map, before.anomaly_map)
        assert len(detector.batch(images)) == 4


def test_a_batch_that_fails_midway_leaves_no_image_of_it_in_the_next(load, images, monkeypatch) -> None:
    """Requests of a batch that failed may still be under way when the next one comes."""
    with load("openvino-throughput") as detector:
        expected = [verdict.score for verdict in detector.batch(images)]
        queue = detector.backend._models.get(1)._all
        started = []

        class Tired:
            def __getattr__(self, name: str) -> object:
                return getattr(queue, name)

            def start_async(self, *args: object) -> None:
                started.append(1)
                if len(started) == 3:
                    raise RuntimeError("gone")
                queue.start_async(*args)

        monkeypatch.setattr(detector.backend._models.get(1), "_all", Tired())
        with pytest.raises(BackendError, match="gone"):
            detector.batch(images)
        for _ in range(20):
            assert [verdict.score for verdict in detector.batch(images[::-1])] == expected[::-1]


def test_a_graph_that_does_not_load_is_tried_once_and_spoils_no_output(tiny_bundle, monkeypatch, capfd) -> None:
    import onnxruntime as ort

    from kdx.runtime.onnxruntime.cpu import OnnxRuntimeCpu

    tried = []

    def fail(self: object, *args: object) -> None:
        tried.append(1)
        raise ValueError("'utf-8' codec can't decode byte 0xe1")  # as it does on damaged names

    monkeypatch.setattr(ort.InferenceSession, "_create_inference_session", fail)
    with pytest.raises(BackendError, match="codec can't decode"):
        OnnxRuntimeCpu(Graph.of(tiny_bundle / "model.onnx"))
    assert tried == [1]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("backend", "precision"), BACKEND_PRECISION_PAIRS)
def test_wrong_frames_between_right_ones(load, images, backend, precision) -> None:
    wrong = [
        None,
        images[0].astype(np.float32),
        images[0][:-1],
        images[0][..., :0],
        np.empty((0, 0, 1), np.uint8),
        "frame",
        3,
    ]
    with load(backend, precision) as detector:
        before = detector(images[0]).score
        for frame in wrong:
            with pytest.raises(InputError):
                detector(frame)
            assert detector(images[0]).score == before


@pytest.mark.parametrize(("backend", "precision"), BACKEND_PRECISION_PAIRS)
def test_a_closed_detector_says_so_every_time(load, images, backend, precision) -> None:
    detector = load(backend, precision)
    detector.close()
    detector.close()
    for _ in range(2):
        with pytest.raises(BackendError, match="is closed"):
            detector(images[0])
