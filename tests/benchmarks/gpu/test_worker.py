"""The worker of the GPU benchmark: parity, turns, and what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from benchmarks.gpu import candidates, run, worker
from benchmarks.gpu.candidates import GpuCandidate, why_unusable
from benchmarks.gpu.run import start_worker
from benchmarks.gpu.worker import Worker
from benchmarks.timing import process
from benchmarks.timing.process import GoneError
from kdx.bundle.bundle import Golden
from kdx.bundle.open import open_bundle
from kdx.errors import BackendError
from kdx.runtime.backend import Outputs
from kernels import measure
from tests.engines import MACHINE


class FakeBackend:
    """Answers as the reference does, or worse."""

    name = "fake"

    def __init__(self, golden: Golden, error: float) -> None:
        self.golden, self.error = golden, error
        self.ran: list[int] = []
        self.timed: list[np.ndarray] = []
        self.closed = False

    def run(self, images: np.ndarray) -> Outputs:
        self.ran.append(len(images))
        found = [self._index(image) for image in images]
        return Outputs(self.golden.maps[found] * (1 + self.error), self.golden.scores[found] * (1 + self.error))

    def _index(self, image: np.ndarray) -> int:
        return next(i for i, each in enumerate(self.golden.images) if np.array_equal(each, image))

    def compute_only(self, images: np.ndarray, runs: int) -> list[float]:
        self.timed += [images] * bool(runs)
        return [0.5] * runs

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens candidates of a worker, and returns it with their backends and answers."""
    golden = open_bundle(tiny_bundle).golden()
    target, backends = Worker(), []

    def open_(batch: int = 1, error: float = 0.0, precision: str = "fp32") -> Any:
        monkeypatch.setattr(worker, "load", lambda *about: backends.append(FakeBackend(golden, error)) or backends[-1])
        about = {"backend": "fake", "precision": precision, "device": "cpu"}
        answer = target.answer({"do": "open", "folder": str(tiny_bundle), "batch": batch, **about})
        return target, backends, answer

    return open_


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_parity_is_compared_at_the_batch_that_is_timed(opened, batch: int) -> None:
    _, backends, answer = opened(batch)
    assert answer["failure"] == ""
    assert answer["parity"]["passed"]
    assert set(backends[0].ran) == {batch}  # no shape but the timed one is built
    assert "scores differ by 0.001" in opened(batch, 1e-3)[2]["failure"]
    assert opened(batch, 1e-3, "fp16")[2]["failure"] == ""  # FP16's tolerances
    assert [backend.closed for backend in backends] == [True, True, False]


def test_turns_take_real_images_one_after_the_other(opened, tiny_bundle: Path) -> None:
    target, backends, _ = opened(2)
    images = open_bundle(tiny_bundle).golden().images
    assert target.answer({"do": "turn", "settle": 5, "calls": 0}) == {"compute": [], "end_to_end": []}
    answer = target.answer({"do": "turn", "settle": 1, "calls": 3})
    assert answer["compute"] == [0.5] * 3
    assert len(answer["end_to_end"]) == 3
    first, second = (np.arange(start, start + 2) % len(images) for start in (0, 2))
    for timed, index in zip(backends[0].timed, (first, second, second), strict=True):
        np.testing.assert_array_equal(timed, images[index])


@pytest.mark.parametrize(("difference", "failure"), [(1e-6, ""), (0.01, "off by 0.01"), (float("nan"), "off by nan")])
def test_the_kernels_run_on_a_real_image(tiny_bundle: Path, monkeypatch, difference: float, failure: str) -> None:
    ran: list[Any] = []
    found = {"max_difference": difference}
    monkeypatch.setattr(worker, "load_detector", lambda folder: folder)
    monkeypatch.setattr(measure, "time_detector", lambda detector, images: ran.append((detector, images)) or found)
    answer = Worker().answer({"do": "kernels", "folder": str(tiny_bundle)})
    assert answer["found"] == found
    assert answer["failure"].startswith(failure)
    assert bool(answer["failure"]) == bool(failure)
    assert ran[0][0] == tiny_bundle
    np.testing.assert_array_equal(ran[0][1], open_bundle(tiny_bundle).golden().images[:1])


def test_errors_of_kdx_say_what_to_do(tmp_path: Path) -> None:
    about = {"backend": "torch", "precision": "fp32", "device": "cpu", "batch": 1}
    answer = Worker().answer({"do": "open", "folder": str(tmp_path / "none.kdx"), **about})
    assert answer["error"].startswith("BundleError: ")


# An interpreter that has TensorRT and lacks PyTorch; its arguments are those of Python.
LEAN = """#!{python}
import runpy, sys
from importlib.machinery import ModuleSpec
from types import ModuleType
for name in ("torch", "timm", "onnx", "onnxruntime", "torchvision"):
    sys.modules[name] = None
sys.path.insert(0, "{root}")
for name in ("tensorrt", "cuda", "cuda.bindings", "cuda.bindings.driver"):
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__spec__ = ModuleSpec(name, None)
option, target, *sys.argv[1:] = sys.argv[1:]
if option == "-c":
    exec(target)
else:
    runpy.run_module(target, run_name="__main__")
"""


@pytest.fixture
def lean(tmp_path: Path) -> Path:
    program = tmp_path / "python"
    text = LEAN.format(python=sys.executable, root=Path(__file__).parents[3])
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    return program


def test_an_engine_is_built_in_an_interpreter_that_has_no_torch(lean: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    assert why_unusable((str(lean),)) == ""
    process = start_worker(GpuCandidate("tensorrt", "fp32", python=(str(lean),)), tmp_path)
    about = {"backend": "tensorrt", "precision": "fp32", "device": "cuda", "batch": 1}
    process.tell({"do": "open", "folder": str(tiny_bundle), **about})
    # As far as a machine without a GPU gets.
    with pytest.raises(GoneError, match="BackendError: TensorRT builds on the GPU that the engine is for"):
        process.hear(300)
    process.close()


def test_an_interpreter_is_tried_with_the_paths_that_it_will_run_with(tmp_path: Path, monkeypatch) -> None:
    """The caller's own PYTHONPATH may have packages that the worker will not see."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nif [ "$1" = -c ]; then echo "$PYTHONPATH" >&2; exit 1; fi\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", "/packages/of/the/caller")
    started: list[str] = []
    monkeypatch.setattr(process.subprocess, "Popen", lambda *a, env, **k: started.append(env["PYTHONPATH"]))
    start_worker(GpuCandidate("tensorrt", "fp32", python=(str(program),)), tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("PYTHONPATH", "/packages/of/the/caller")
    assert why_unusable((str(program),)).endswith(f": {started[0]}")


def test_a_timing_cache_belongs_to_one_version_and_card(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(candidates.shutil, "copytree", lambda *a, **k: None)
    opens = SimpleNamespace(open=lambda graph, threads: graph)
    bundle = SimpleNamespace(path=tmp_path / "m.kdx", manifest=None)
    caches = []

    def build(bundle, request, force):
        caches.append(request.timing_cache)
        opens.open = lambda graph, threads: graph

    def refuse(graph, threads):
        raise BackendError("no engine")

    monkeypatch.setattr(candidates, "Bundle", lambda path, manifest: SimpleNamespace(graph_of=lambda precision: None))
    monkeypatch.setattr(candidates, "BACKENDS", {"tensorrt": opens, "tensorrt-rtx": opens})
    monkeypatch.setattr(candidates, "build_engine", build)
    known = [MACHINE, replace(MACHINE, gpu="another card"), replace(MACHINE, tensorrt="10.99.0"), MACHINE]
    for machine in known:
        opens.open = refuse
        monkeypatch.setattr(candidates, "tensorrt_machine", lambda machine=machine: machine)
        candidates._load_engine("tensorrt", "fp16", bundle, 1)
    assert len(set(caches)) == 3
    assert caches[0] == caches[-1]
    assert {cache.parent for cache in caches} == {tmp_path}
    opens.open = refuse
    candidates._load_engine("tensorrt-rtx", "fp16", bundle, 1)
    assert caches[-1] is None  # it times nothing


def test_onnxruntime_without_the_libraries_of_tensorrt_is_absent(monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    from kdx.runtime.onnxruntime import cuda

    installed = SimpleNamespace(is_installed=lambda: True, engine=None)
    monkeypatch.setattr(candidates, "gpus", lambda: [SimpleNamespace(compute_capability="9.0")])
    monkeypatch.setattr(candidates, "BACKENDS", dict.fromkeys(["onnxruntime-cuda", "onnxruntime-tensorrt"], installed))
    said = {cuda.TENSORRT: "install what is missing: libnvinfer.so.10"}
    monkeypatch.setattr(cuda, "missing_library", said.get)
    assert candidates._why_absent("onnxruntime-tensorrt", "cuda", ()) == said[cuda.TENSORRT]
    assert candidates._why_absent("onnxruntime-cuda-graph", "cuda", ()) == ""


def test_an_interpreter_that_lacks_something_is_named(tmp_path: Path) -> None:
    assert "does not start" in why_unusable((str(tmp_path / "none"),))
    if subprocess.run([sys.executable, "-c", "import tensorrt"], capture_output=True, check=False).returncode:
        assert "No module named 'tensorrt'" in why_unusable((sys.executable,))


def test_onnxruntime_with_tensorrt_starts_without_tensor_float_32(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(run, "WorkerProcess", lambda module, log, variables, python: variables)
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    variables = {name: start_worker(GpuCandidate(name, "fp32"), tmp_path) for name in ("torch", "onnxruntime-tensorrt")}
    assert variables["onnxruntime-tensorrt"]["NVIDIA_TF32_OVERRIDE"] == "0"
    assert "NVIDIA_TF32_OVERRIDE" not in variables["torch"]


def test_a_copy_of_a_bundle_that_was_cut_off_is_completed(monkeypatch, tmp_path) -> None:
    whole, cut_off = tmp_path / "m.kdx", tmp_path / "m-tensorrt-batch1.kdx"
    for folder in (whole, cut_off):
        folder.mkdir()
    (whole / "model.onnx").write_bytes(b"a graph")
    (cut_off / "model.onnx").write_bytes(b"a gr")

    def bundle(path, manifest):
        return SimpleNamespace(path=path, manifest=manifest, graph_of=lambda precision: path / "model.onnx")

    monkeypatch.setattr(candidates, "Bundle", bundle)
    opens = SimpleNamespace(open=lambda graph, threads: graph.read_bytes())
    monkeypatch.setattr(candidates, "BACKENDS", {"tensorrt": opens})
    assert candidates._load_engine("tensorrt", "fp32", bundle(whole, None), 1) == b"a graph"
