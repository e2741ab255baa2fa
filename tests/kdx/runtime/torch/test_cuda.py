"""The fused detector in PyTorch, as it runs on the GPU, tried on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from kd_train.methods import methods  # noqa: E402
from kdx.errors import BackendError  # noqa: E402
from kdx.imaging.images import InputSpec  # noqa: E402
from kdx.runtime.torch.cuda import TorchCuda  # noqa: E402
from kdx.runtime.torch.eager import TorchEager  # noqa: E402
from tests.pairs import fuse_pair, make_pair  # noqa: E402

SIZE = 64

# Of the map's maximum. FP16 keeps 11 bits (5e-4); the methods' maps differ by 2e-4 to 2e-3 on the
# CPU.
HALF_TOLERANCE = 1e-2


@pytest.fixture(scope="module")
def detector():
    return fuse_pair(make_pair(backbone="test_resnet"), InputSpec(height=SIZE, width=SIZE), SIZE)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def reference(detector, frames):
    return TorchEager(detector).run(frames)


def test_fp32_is_the_reference(detector, frames, reference):
    with TorchCuda(detector, device="cpu") as loaded:
        outputs = loaded.run(frames)
        assert loaded.name == "torch-fp32"
    np.testing.assert_array_equal(outputs.maps, reference.maps)
    np.testing.assert_array_equal(outputs.scores, reference.scores)


def test_fp16_is_near_the_reference_and_not_it(detector, frames, reference):
    with TorchCuda(detector, precision="fp16", device="cpu") as loaded:
        outputs = loaded.run(frames)
        assert loaded.name == "torch-fp16"
        assert {p.dtype for p in loaded._run.pair.parameters()} == {torch.float16}
        assert {b.dtype for b in loaded._run.tail.buffers()} <= {torch.float32}
    assert outputs.maps.dtype == outputs.scores.dtype == np.float32
    assert np.isfinite(outputs.maps).all()
    error = np.abs(outputs.maps - reference.maps).max() / reference.maps.max()
    assert 0 < error < HALF_TOLERANCE


@pytest.mark.parametrize("method", sorted(methods()))
def test_fp16_of_every_method(method, frames):
    detector = fuse_pair(make_pair(method, backbone="test_resnet"), InputSpec(height=SIZE, width=SIZE), SIZE)
    reference = TorchEager(detector).run(frames)
    with TorchCuda(detector, precision="fp16", device="cpu") as loaded:
        error = np.abs(loaded.run(frames).maps - reference.maps).max() / reference.maps.max()
    assert 0 < error < HALF_TOLERANCE


def test_the_detector_that_is_given_stays_as_it_is(detector, frames, reference):
    TorchCuda(detector, precision="fp16", device="cpu").close()
    assert {p.dtype for p in detector.parameters()} == {torch.float32}
    np.testing.assert_array_equal(TorchEager(detector).run(frames).maps, reference.maps)


def test_read_only_frames_and_threads(detector, frames, reference):
    frames = frames.copy()
    frames.flags.writeable = False
    with TorchCuda(detector, device="cpu") as loaded, ThreadPoolExecutor(4) as pool:
        for outputs in pool.map(loaded.run, [frames] * 8):
            np.testing.assert_array_equal(outputs.maps, reference.maps)


def test_compute_only_gives_a_time_for_each_run_on_the_images(detector, frames, monkeypatch):
    ran = []
    with TorchCuda(detector, device="cpu") as loaded:
        forward = loaded._forward
        monkeypatch.setattr(loaded, "_forward", lambda images: (ran.append(images.numpy()), forward(images)))
        times = loaded.compute_only(frames[:2], 4)
    assert len(times) == 4
    assert min(times) > 0
    assert len(ran) > 4
    np.testing.assert_array_equal(ran, [frames[:2]] * len(ran))


def test_failures_are_backend_errors_and_the_next_call_succeeds(detector, frames, reference):
    with TorchCuda(detector, device="cpu") as loaded:
        with pytest.raises(BackendError, match=r"batch of shape \(3, 8, 8, 3\)"):
            loaded.run(frames[:, :8, :8])
        with pytest.raises(BackendError, match=r"batch of shape \(1, 8, 8, 3\)"):
            loaded.compute_only(frames[:1, :8, :8], 1)
        np.testing.assert_array_equal(loaded.run(frames).maps, reference.maps)
    with pytest.raises(BackendError, match="closed"):
        loaded.run(frames)
    with pytest.raises(BackendError, match="closed"):
        loaded.compute_only(frames[:1], 1)


def test_a_compiled_detector_stays_in_its_thread(detector, frames, reference, monkeypatch):
    asked = []

    def compile_(module, **options):
        asked.append(options)
        return module

    monkeypatch.setattr(torch, "compile", compile_)
    with TorchCuda(detector, compile_mode="reduce-overhead", device="cpu") as loaded, ThreadPoolExecutor(1) as pool:
        assert loaded.name == "torch-fp32-reduce-overhead"
        np.testing.assert_array_equal(loaded.run(frames).maps, reference.maps)
        with pytest.raises(BackendError, match="thread"):
            pool.submit(loaded.run, frames).result()
        np.testing.assert_array_equal(loaded.run(frames).maps, reference.maps)
    assert asked == [{"mode": "reduce-overhead", "dynamic": False}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_cuda_is_an_error(detector):
    with pytest.raises(BackendError, match="no CUDA device"):
        TorchCuda(detector)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("compile_mode", [None, "reduce-overhead"])
def test_on_the_real_gpu(detector, frames, reference, precision, compile_mode):
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU on this machine")
    tolerance = 1e-3 if precision == "fp32" else HALF_TOLERANCE
    with TorchCuda(detector, precision=precision, compile_mode=compile_mode) as loaded:
        for _ in range(4):
            outputs = loaded.run(frames)
            np.testing.assert_allclose(outputs.maps, reference.maps, atol=tolerance * float(reference.maps.max()))
        assert min(loaded.compute_only(frames, 5)) > 0
