"""An engine may take smaller batches than its bundle's graph: it is compared at those that it
takes."""

from __future__ import annotations

from pathlib import Path

import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.errors import BackendError
from kdx.progress import SILENT
from kdx.runtime.backend_table import BACKENDS, find_backend
from kdx.verification import backend_choice
from kdx.verification.certificate import verify
from kdx.workflows import bench
from tests.engines import EmulatedTensorRT, add_engine, emulate_tensorrt, make_record

PAIRS = [("onnxruntime-cpu", "fp32"), ("tensorrt", "fp32")]


def with_engine(bundle: Path, monkeypatch, batches: list[int]) -> Path:
    """Put an FP32 engine into a bundle, and let it run on this machine."""
    emulate_tensorrt(monkeypatch)
    sha256 = open_bundle(bundle).graph_of("fp32").sha256
    add_engine(bundle, "tensorrt-8.6-fp32", make_record(precision="fp32", onnx_sha256=sha256, batches=batches))
    for module in (bench, backend_choice):
        pairs = [(BACKENDS[name], precision) for name, precision in PAIRS]
        monkeypatch.setattr(module, "backend_precision_pairs", lambda bundle, pairs=pairs: pairs)
    return bundle


@pytest.fixture
def single_images(bundle_copy, monkeypatch) -> Path:
    """A bundle with an engine as ``kdx build-engine`` builds it by default."""
    return with_engine(bundle_copy, monkeypatch, [1])


@pytest.mark.parametrize(("batches", "compared"), [([1], [1]), ([1, 4], [1, 4]), ([1, 32], [1, 5])])
def test_a_certificate_compares_an_engine_at_sizes_that_it_takes(bundle_copy, monkeypatch, batches, compared):
    bundle = open_bundle(with_engine(bundle_copy, monkeypatch, batches))
    assert bundle.manifest.max_batch == 32
    certificate = verify(bundle, [find_backend("tensorrt"), find_backend("onnxruntime-cpu")], precisions=["fp32"])
    assert certificate.passed
    sizes = [(each.backend, each.batch) for each in certificate.comparisons]
    assert sizes == [*(("tensorrt", batch) for batch in compared), ("onnxruntime-cpu", 1), ("onnxruntime-cpu", 5)]


def test_an_engine_for_single_images_does_not_end_the_choice(single_images, frame):
    with kdx.load(single_images) as detector:
        assert detector.backend.name in {"onnxruntime-cpu", "tensorrt"}
        detector(frame)
    choice = backend_choice.BackendChooser(open_bundle(single_images)).fastest()
    assert {each.backend: each.reason for each in choice.candidates} == {"onnxruntime-cpu": "", "tensorrt": ""}


def test_an_engine_that_does_not_take_the_golden_images_is_named(single_images, monkeypatch):
    """As one that was built for images of another size."""
    monkeypatch.setattr(EmulatedTensorRT, "max_batch", property(lambda self: 0, lambda self, value: None), False)
    certificate = verify(open_bundle(single_images), [BACKENDS[name] for name, _ in PAIRS], precisions=["fp32"])
    failed = [(each.backend, each.error) for each in certificate.comparisons if not each.passed]
    assert failed == [("tensorrt", "the batch does not fit the engine")]
    assert not certificate.passed
    with kdx.load(single_images) as detector:
        assert detector.backend.name == "onnxruntime-cpu"


def test_bench_names_the_sizes_that_an_engine_does_not_take(single_images, cli):
    options = ("--runs", 20, "--warm-up", 1, "--threads", 1, "--batch")
    record = cli("bench", single_images, *options, "1,2", "--json").json
    timed = {(each["name"], each["batch"]) for each in record["results"]}
    assert timed == {("onnxruntime-cpu", 1), ("tensorrt", 1), ("onnxruntime-cpu", 2)}
    reason = "takes batches of up to 1"
    assert record["not_timed"] == [{"name": "tensorrt", "precision": "fp32", "batch": 2, "reason": reason}]
    printed = cli("bench", single_images, *options, 2).stdout
    assert f"not timed: tensorrt, fp32, batch 2: {reason}" in printed


def test_bench_names_a_batch_size_at_which_a_backend_fails_and_times_the_others(single_images, monkeypatch):
    def full(self, images):
        raise BackendError("the memory of the GPU is full")

    monkeypatch.setattr(EmulatedTensorRT, "run", full)
    times = {"baseline": None, "runs": 20, "warm_up": 0, "progress": SILENT}
    record = bench.measure_latency(open_bundle(single_images), 1, batches=(1, 2), **times)
    assert [(each.name, each.batch) for each in record["results"]] == [("onnxruntime-cpu", 1), ("onnxruntime-cpu", 2)]
    said = [
        "tensorrt, fp32, batch 2: takes batches of up to 1",
        "tensorrt, fp32, batch 1: the memory of the GPU is full",
    ]
    assert list(map(str, record["not_timed"])) == said


def test_bench_names_a_backend_that_does_not_open(single_images, monkeypatch):
    def broken(self, graph, threads=None):
        raise BackendError("TensorRT cannot load the plan")

    monkeypatch.setattr(EmulatedTensorRT, "__init__", broken)
    times = {"baseline": None, "runs": 20, "warm_up": 0, "progress": SILENT}
    record = bench.measure_latency(open_bundle(single_images), 1, batches=(1,), **times)
    assert [each.name for each in record["results"]] == ["onnxruntime-cpu"]
    assert list(map(str, record["not_timed"])) == ["tensorrt, fp32, batch 1: TensorRT cannot load the plan"]
    only = [(BACKENDS["tensorrt"], "fp32")]
    monkeypatch.setattr(bench, "backend_precision_pairs", lambda bundle: only)
    with pytest.raises(BackendError, match="no backend on this machine can be timed") as caught:
        bench.measure_latency(open_bundle(single_images), 1, batches=(1,), **times)
    assert "TensorRT cannot load the plan" in caught.value.received
