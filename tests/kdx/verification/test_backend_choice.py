"""``auto``: the fastest of those that decide what was trained, measured once."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import msgspec
import numpy as np
import pytest

import kdx
from kdx.bundle.bundle import Bundle
from kdx.bundle.engine_record import find_engine
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.bundle.variants import Variant
from kdx.errors import BackendError, BundleError
from kdx.imaging.tiling import plan_tiles
from kdx.runtime.backend import ClosesOnExit, Outputs
from kdx.runtime.backend_table import BACKENDS, BackendInfo, ComputedPrecision
from kdx.verification import backend_choice as module
from kdx.verification import remembered_choice
from kdx.verification.backend_choice import BackendChooser
from kdx.verification.certificate import verify
from tests.conftest import stated_latency
from tests.engines import MACHINE, add_engine, make_record

REAL = BACKENDS["onnxruntime-cpu"]


class Wrapped(ClosesOnExit):
    """The real backend, with a stated latency in seconds, or falsified."""

    def __init__(self, inner, name: str, delay: float, factor: float) -> None:
        self.inner, self.name, self.delay, self.factor = inner, name, delay, factor

    def run(self, images):
        maps, scores = self.inner.run(images)
        return Outputs(maps * np.float32(self.factor), scores * np.float32(self.factor))

    def close(self) -> None:
        self.inner.close()


class FakeBackend(BackendInfo):
    """A backend for these tests; counts how often it is opened."""

    opened: ClassVar[dict[str, int]] = {}

    @classmethod
    def make(cls, name: str, delay: float = 0.0, factor: float = 1.0, error: str = "") -> FakeBackend:
        info = cls(name=name, package="onnxruntime", install="", factory="", purpose="", precisions=("fp32",))
        object.__setattr__(info, "settings", (delay, factor, error))
        return info

    def open(self, graph, threads, precision="fp32"):
        delay, factor, error = self.settings  # type: ignore[attr-defined]
        self.opened[self.name] = self.opened.get(self.name, 0) + 1
        if error:
            raise BackendError(error)
        return Wrapped(REAL.open(graph, threads, precision), self.name, delay, factor)


def stated_latencies(backends, images, *, batches, runs, warm_up):
    """Return what the backends say that a call takes, for a loaded machine may take any time: 1 ms,
    and the delay."""
    return [stated_latency(backend.name, 1 + 1e3 * backend.delay, runs) for backend in backends]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Install backends into this machine, with a cache of its own."""
    FakeBackend.opened.clear()
    monkeypatch.setattr(module, "time_backends", stated_latencies)
    monkeypatch.setenv("KDX_CACHE_DIR", str(tmp_path / "cache"))

    def put(*installed: BackendInfo) -> None:
        monkeypatch.setattr(module, "require_backends", lambda path: list(installed))
        for info in installed:
            monkeypatch.setitem(BACKENDS, info.name, info)

    return put


def test_the_fastest_is_taken_and_remembered(tiny_bundle, machine) -> None:
    machine(FakeBackend.make("slow", delay=0.05), FakeBackend.make("fast"))
    first = BackendChooser(open_bundle(tiny_bundle), threads=1).fastest()
    assert (first.backend, first.precision) == ("fast", "fp32")
    by_name = {candidate.backend: candidate for candidate in first.candidates}
    assert by_name["slow"].p50_ms > by_name["fast"].p50_ms
    assert BackendChooser(open_bundle(tiny_bundle), threads=1).fastest() == first
    assert FakeBackend.opened == {"slow": 1, "fast": 1}
    # Other threads are another question.
    BackendChooser(open_bundle(tiny_bundle), threads=2).fastest()
    assert FakeBackend.opened == {"slow": 2, "fast": 2}


def test_two_candidates_of_one_name_are_distinguished(tiny_bundle, machine, monkeypatch) -> None:
    # One backend in two precisions has one name.
    machine(FakeBackend.make("slow", delay=0.05), FakeBackend.make("fast"))
    monkeypatch.setattr(Wrapped, "name", property(lambda self: "same", lambda self, value: None), raising=False)
    found = BackendChooser(open_bundle(tiny_bundle), threads=1).fastest()
    assert found.backend == "fast"
    slow, fast = found.candidates
    assert slow.p50_ms >= 50 > fast.p50_ms


def test_the_fastest_is_not_taken_where_it_decides_otherwise(tiny_bundle, machine) -> None:
    machine(FakeBackend.make("wrong", factor=1.5), FakeBackend.make("right", delay=0.02))
    found = BackendChooser(open_bundle(tiny_bundle), threads=1).fastest()
    assert found.backend == "right"
    wrong = next(candidate for candidate in found.candidates if candidate.backend == "wrong")
    assert wrong.p50_ms is None
    assert "scores off by 0.5" in wrong.reason


def test_one_that_cannot_be_opened_prevents_nothing(tiny_bundle, machine) -> None:
    machine(FakeBackend.make("broken", error="no driver"), FakeBackend.make("works"))
    found = BackendChooser(open_bundle(tiny_bundle), threads=1).fastest()
    assert found.backend == "works"
    assert any(candidate.reason == "no driver" for candidate in found.candidates)


def test_a_gpu_that_failed_is_named_and_measured_again(tiny_bundle, machine) -> None:
    gpu = FakeBackend.make("gpu", error="CUDA_ERROR_OUT_OF_MEMORY")
    object.__setattr__(gpu, "needs_gpu", True)
    machine(FakeBackend.make("cpu", delay=0.05), gpu)
    with pytest.warns(RuntimeWarning, match="a GPU was left out .*: gpu fp32: CUDA_ERROR_OUT_OF_MEMORY"):
        assert BackendChooser(open_bundle(tiny_bundle), threads=1).fastest().backend == "cpu"
    object.__setattr__(gpu, "settings", (0.0, 1.0, ""))  # the other program has ended
    assert BackendChooser(open_bundle(tiny_bundle), threads=1).fastest().backend == "gpu"


def test_a_package_that_does_not_load_prevents_nothing(bundle_copy, machine) -> None:
    missing = "tests.no_such_module:function"
    computed = {"bf16": ComputedPrecision(missing, missing)}
    openvino = replace(BACKENDS["openvino"], package="onnxruntime", factory=missing, computed=computed)
    machine(openvino, FakeBackend.make("works"))
    manifest = msgspec.structs.replace(open_bundle(bundle_copy).manifest, threshold=None)
    variants = {"bf16": Variant(file="model.onnx", convolutions=1, kept=[])}  # computed from the FP32 graph
    write_manifest(bundle_copy, msgspec.structs.replace(manifest, variants=variants))
    found = BackendChooser(open_bundle(bundle_copy), threads=1).fastest()
    assert found.backend == "works"
    (failed,) = [each for each in found.candidates if each.backend == "openvino"]
    assert failed.precision == "fp32"
    assert "is installed but cannot be loaded: No module named 'tests.no_such_module'" in failed.reason


def test_nothing_is_chosen_where_nothing_passes(tiny_bundle, machine) -> None:
    machine(FakeBackend.make("wrong", factor=1.5), FakeBackend.make("broken", error="no driver"))
    with pytest.raises(BackendError, match="no backend on this machine") as error:
        BackendChooser(open_bundle(tiny_bundle), threads=1).fastest()
    assert "wrong fp32" in error.value.received
    assert "no driver" in error.value.received
    assert not (remembered_choice.cache_folder() / "choices").exists()


def test_unreadable_golden_images_are_reported_before_an_engine_is_opened(bundle_copy, machine) -> None:
    backends = [FakeBackend.make("slow"), FakeBackend.make("fast", error="no device")]
    machine(*backends)
    bundle = open_bundle(bundle_copy)
    (bundle_copy / "golden/anomaly_map.npy").write_bytes(b"damaged")
    for use in (BackendChooser(bundle).fastest, lambda: verify(bundle, backends), lambda: verify(bundle, [])):
        with pytest.raises(BundleError, match="was replaced or altered"):
            use()
    assert FakeBackend.opened == {}


def test_a_damaged_memory_is_no_obstacle_and_an_unwritable_one_is_said(tiny_bundle, machine, monkeypatch) -> None:
    machine(FakeBackend.make("a"), FakeBackend.make("b", delay=0.05))
    BackendChooser(open_bundle(tiny_bundle), threads=1).fastest()
    (remembered,) = (remembered_choice.cache_folder() / "choices").iterdir()
    remembered.write_bytes(b"{")
    assert BackendChooser(open_bundle(tiny_bundle), threads=1).fastest().backend == "a"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    remembered.unlink()
    monkeypatch.setattr(remembered_choice, "write_atomic", full)
    with pytest.warns(RuntimeWarning, match=r"cannot be written: No space left on device.*KDX_CACHE_DIR"):
        assert BackendChooser(open_bundle(tiny_bundle), threads=1).fastest().backend == "a"


def test_a_single_pair_costs_nothing(tiny_bundle, machine) -> None:
    machine(FakeBackend.make("only"))
    assert BackendChooser(open_bundle(tiny_bundle)).fastest().backend == "only"
    assert FakeBackend.opened == {}


def test_load_runs_what_was_chosen(tiny_bundle, machine) -> None:
    machine(FakeBackend.make("slow", delay=0.05), FakeBackend.make("fast"))
    with kdx.load(tiny_bundle, threads=1) as detector:
        assert detector.backend.name == "fast"
    with kdx.load(tiny_bundle, backend="slow", threads=1) as detector:
        assert detector.backend.name == "slow"


def test_a_precision_that_is_not_there(tiny_bundle, machine) -> None:
    machine(FakeBackend.make("a"), FakeBackend.make("b"))
    with pytest.raises(BundleError, match="no fp16 graph"):
        BackendChooser(open_bundle(tiny_bundle), threads=1, precision="fp16").fastest()


def test_a_precision_that_no_backend_here_runs(trained_int8, machine) -> None:
    machine(FakeBackend.make("a"), FakeBackend.make("b"))
    with pytest.raises(BackendError, match="no backend on this machine runs int8 graphs"):
        BackendChooser(trained_int8, threads=1, precision="int8").fastest()


@pytest.mark.parametrize("precision", [None, "fp32"])
def test_engines_of_another_machine_alone_are_named_where_one_is_opened(bundle_copy, machine, precision) -> None:
    opened = open_bundle(bundle_copy)
    add_engine(bundle_copy, "theirs", make_record(precision="fp32", onnx_sha256=opened.graph.sha256))
    ours = msgspec.structs.replace(MACHINE, compute_capability="9.0", gpu="NVIDIA H200")
    here = FakeBackend.make("here")
    object.__setattr__(here, "engine", MACHINE.flavour)
    object.__setattr__(here, "_fingerprint", lambda: ours)
    object.__setattr__(here, "open", lambda graph, *_: find_engine(graph, ours))
    machine(here)
    with pytest.raises(BackendError, match=r"holds no engine of model\.onnx for this machine") as caught:
        kdx.load(opened.path, precision=precision)
    assert "engines/theirs: built for compute capability 8.6, here is 9.0" in caught.value.received
    assert "kdx build-engine" in caught.value.fix


@pytest.fixture
def trained_int8(tiny_bundle):
    """A bundle that says it holds an INT8 graph; it is never opened."""
    opened = open_bundle(tiny_bundle)
    variants = {"int8": Variant(file="model.int8.onnx", convolutions=1, kept=[])}
    files = {**opened.manifest.files, "model.int8.onnx": "0" * 64}
    return Bundle(opened.path, msgspec.structs.replace(opened.manifest, variants=variants, files=files))


def test_a_choice_counts_for_cpus_with_the_same_instructions_alone(tiny_bundle, monkeypatch) -> None:
    names = []
    for features in (["avx2"], ["avx2", "avx512_vnni"]):
        monkeypatch.setattr(remembered_choice, "cpu_features", lambda features=features: features)
        names.append(remembered_choice.ChoiceFile(open_bundle(tiny_bundle), [], 1).path)
    assert None not in names
    assert len(set(names)) == 2


@pytest.fixture
def tiles(tiny_bundle):
    """The bundle as one for frames of nine tiles, of which three go through the graph at once."""
    opened = open_bundle(tiny_bundle)
    side = opened.manifest.input.height
    tiling = plan_tiles((2 * side, 2 * side), (side, side), overlap=side // 2, halo=0, batch=3)
    return Bundle(opened.path, msgspec.structs.replace(opened.manifest, tiling=tiling))


def test_backends_are_timed_on_as_many_tiles_as_go_through_the_graph_at_once(tiles, machine, monkeypatch) -> None:
    sizes: dict[str, list[int]] = {"all": [], "two": []}
    run = Wrapped.run

    def recorded(self, images):
        sizes[self.name].append(len(images))
        return run(self, images)

    def timed(backends, images, *, batches, runs, warm_up):
        assert batches == (3,)
        for backend in backends:
            sizes[backend.name].clear()
            outputs = backend.run(images[[0, 1, 0]])
            assert (len(outputs.maps), outputs.scores.shape) == (3, (3, 1))
        return [stated_latency(backend.name, 1.0 + index, runs) for index, backend in enumerate(backends)]

    machine(FakeBackend.make("all"), FakeBackend.make("two"))
    monkeypatch.setattr(Wrapped, "run", recorded)
    # An engine may have been built for smaller batches.
    monkeypatch.setattr(Wrapped, "max_batch", property(lambda self: 2 if self.name == "two" else 8), raising=False)
    monkeypatch.setattr(module, "time_backends", timed)
    assert BackendChooser(tiles, threads=1).fastest().backend == "all"
    assert sizes == {"all": [3], "two": [2, 1]}


def test_a_backend_that_fails_with_as_many_tiles_is_not_chosen(tiles, machine, monkeypatch) -> None:
    run = Wrapped.run

    def fail(self, images):
        if self.name == "small" and len(images) == 3:
            raise BackendError("no memory is left")
        return run(self, images)

    def in_order(backends, images, *, batches, runs, warm_up):
        return [stated_latency(backend.name, 1.0 + index, runs) for index, backend in enumerate(backends)]

    machine(FakeBackend.make("small"), FakeBackend.make("large"))
    monkeypatch.setattr(Wrapped, "run", fail)
    monkeypatch.setattr("kdx.verification.golden.certificate_batches", lambda *_: [1])
    monkeypatch.setattr(module, "time_backends", in_order)
    found = BackendChooser(tiles, threads=1).fastest()
    assert found.backend == "large"
    assert [each.reason for each in found.candidates if each.backend == "small"] == ["no memory is left"]


def test_a_choice_for_whole_images_is_none_for_tiles(tiny_bundle, tiles) -> None:
    fewer = msgspec.structs.replace(tiles.manifest.tiling, batch=1)
    bundles = [
        tiles,
        Bundle(tiles.path, msgspec.structs.replace(tiles.manifest, tiling=fewer)),
        open_bundle(tiny_bundle),
    ]
    names = [remembered_choice.ChoiceFile(bundle, [], 1).path for bundle in bundles]
    assert names[0] != names[1] == names[2]


@pytest.mark.parametrize("is_group", [False, True])
def test_a_remembered_choice_that_fails_is_measured_again(tiny_bundle, machine, monkeypatch, is_group) -> None:
    def used() -> str:
        if is_group:
            with kdx.load_many([tiny_bundle], threads=1) as group:
                return group["tiny"].backend.name
        with kdx.load(tiny_bundle, threads=1) as detector:
            return detector.backend.name

    fast = FakeBackend.make("fast")
    machine(FakeBackend.make("slow", delay=0.05), fast)
    assert used() == "fast"
    object.__setattr__(fast, "settings", (0.0, 1.5, ""))  # as an update of a driver may make it
    assert used() == "slow"
    FakeBackend.opened.clear()
    assert used() == "slow"
    assert FakeBackend.opened == {"slow": 1}  # remembered
    object.__setattr__(BACKENDS["slow"], "settings", (0.0, 1.5, ""))
    with pytest.raises(BackendError, match="no backend on this machine decides what was trained"):
        used()
