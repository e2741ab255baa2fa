"""OpenVINO computes what PyTorch does: every method, its precision stated, from several threads,
from its cache."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from kdx.bundle.checked_files import Graph
from kdx.errors import BackendError
from kdx.runtime.backend_table import find_backend
from kdx.runtime.openvino.blob_cache import BlobCache
from kdx.storage.cache import VARIABLE, cache_folder
from kdx.storage.files import sha256_bytes
from kdx.verification.tolerances import FP32
from tests.conftest import BLUR, CAMERA
from tests.images import solar_cells

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
kdx_openvino = pytest.importorskip("kdx.runtime.openvino.backend")
openvino_load = pytest.importorskip("kdx.runtime.openvino.compilation")
OpenVino = kdx_openvino.OpenVino
SIZE = CAMERA


def precisions(backend, rooms: tuple[str, ...]) -> set[str]:
    """Return the precisions in which operations of some rooms run."""
    found = set()
    for operation in backend.compiled_model().get_runtime_model().get_ops():
        notes = operation.get_rt_info()
        names = notes["originalLayersNames"].value.split(",")
        if notes["layerType"].value not in {"Const", "Input", "Output"} and names[0].startswith(rooms):
            found.add(notes["runtimePrecision"].value)
    return found


def export(path: Path, max_batch: int) -> Path:
    """Export STPM in the structure of the fixture ``exported``."""
    from kd_export.onnx.onnx_export import export_onnx
    from kdx.imaging.images import InputSpec
    from tests.pairs import fuse_pair, make_pair

    spec = InputSpec(height=SIZE[0], width=SIZE[1])
    detector = fuse_pair(make_pair("stpm", "test_resnet", sigma=BLUR), spec, 64)
    export_onnx(detector, path, max_batch=max_batch, metadata={})
    return path


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    """The graph at batches of 1 to 8."""
    return export(tmp_path_factory.mktemp("stpm") / "model.onnx", max_batch=8)


@pytest.fixture(scope="module")
def backend(graph):
    with OpenVino(Graph.of(graph), 1) as opened:
        yield opened


def altered(graph: Path, path: Path) -> Path:
    """Write a graph that differs in one number."""
    model = onnx.load(graph)
    tensor = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[values.size // 2] += 5.0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_every_method_agrees_with_torch(exported, batch) -> None:
    images = solar_cells(3, (72, 80))[:batch]
    with OpenVino(Graph.of(exported.fp32), 1) as backend, torch.inference_mode():
        ours = backend.run(images)
        maps, scores = (output.numpy() for output in exported.detector(torch.from_numpy(images)))
        assert precisions(backend, ("pair", "tail")) == {"f32"}
    assert ours.maps.dtype == ours.scores.dtype == np.float32
    assert ours.maps.shape == maps.shape
    assert ours.scores.shape == (batch, 1)
    assert (np.abs(ours.scores - scores) <= FP32.score * np.abs(scores)).all()
    assert (np.abs(ours.maps - maps).max(axis=(1, 2)) <= FP32.map * np.ptp(maps, axis=(1, 2))).all()


@pytest.mark.slow
def test_the_precision_is_f32_whatever_the_cpu_offers(backend) -> None:
    import openvino as ov

    model = backend.compiled_model()
    assert model.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
    assert model.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert model.get_property("INFERENCE_NUM_THREADS") == 1
    assert precisions(backend, ("pair", "tail")) == {"f32"}


@pytest.mark.slow
def test_bf16_is_the_networks_alone(graph) -> None:
    if not openvino_load.offers_bf16():
        pytest.skip("this CPU has no BF16")
    images = solar_cells(2, SIZE)
    with OpenVino(Graph.of(graph), 1) as exact, OpenVino(Graph.of(graph), 1, precision="bf16") as backend:
        assert "bf16" in precisions(backend, ("pair",))
        assert precisions(backend, ("tail", "anomaly")) == {"f32"}
        theirs, ours = exact.run(images), backend.run(images)
    # BF16 keeps 8 bits. Random weights leave teacher and student far apart: a small part of their
    # distance.
    moved = np.abs(ours.scores / theirs.scores - 1).max()
    assert 0 < moved < 0.05


def test_bf16_is_refused_where_the_cpu_has_none(graph, monkeypatch) -> None:
    monkeypatch.setattr(openvino_load, "offers_bf16", lambda: False)
    with pytest.raises(BackendError, match="does not support BF16"):
        kdx_openvino.openvino_bf16_backend(Graph.of(graph), 1)


def test_an_installation_that_does_not_answer_is_a_backend_error(monkeypatch) -> None:
    class Broken:
        def get_property(self, *_: str) -> str:
            raise RuntimeError('Device with "CPU" name is not registered')

    monkeypatch.setattr(openvino_load, "core", Broken)
    with pytest.raises(BackendError, match=r"cannot tell what this CPU computes: .* is not registered"):
        openvino_load.offers_bf16()


def test_each_batch_size_is_compiled_once_and_the_last_few_are_kept(graph) -> None:
    images = solar_cells(8, SIZE)
    with OpenVino(Graph.of(graph), 1) as backend:
        whole = backend.run(images)
        for size in (1, 2, 3, 5, 8, 4):
            part = backend.run(images[:size])
            np.testing.assert_allclose(part.scores, whole.scores[:size], rtol=FP32.score)
            assert tuple(backend.compiled_model(size).input(0).shape) == (size, *SIZE, 3)
        assert backend.compiled_model(8) is backend.compiled_model(8)
        # The single images' is never dropped, and counts beside the others.
        assert set(backend._models.made()) == {1, 3, 5, 8, 4}
        assert openvino_load.KEPT_BATCH_SIZES == 4


@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_one_that_is_dropped_and_not_closed_is_freed_at_once(graph, mode) -> None:
    gc.disable()
    try:
        backend = OpenVino(Graph.of(graph), 1, mode=mode)
        backend.run(solar_cells(2, SIZE))
        alive = [weakref.ref(backend), weakref.ref(backend._models.get(1))]
        del backend
        assert [found() for found in alive] == [None, None]
    finally:
        gc.enable()


def test_the_input_stays_uint8(backend) -> None:
    import openvino as ov

    assert backend.compiled_model().input(0).element_type == ov.Type.u8


def test_outputs_are_the_callers_own(backend) -> None:
    images = solar_cells(2, SIZE)
    first = backend.run(images[:1])
    kept = first.maps.copy()
    first.maps[...] = 0  # writable
    second = backend.run(images[1:])
    again = backend.run(images[:1])
    assert not np.shares_memory(first.maps, second.maps)
    np.testing.assert_array_equal(again.maps, kept)
    assert not np.array_equal(second.maps, kept)


def test_an_image_that_may_not_be_written_is_read(backend) -> None:
    image = solar_cells(1, SIZE)
    image.flags.writeable = False
    assert np.isfinite(backend.run(image).scores).all()


def test_threads_get_their_own_answers(backend) -> None:
    images = solar_cells(8, SIZE)
    expected = [backend.run(images[i : i + 1]) for i in range(8)]
    together = threading.Barrier(4)

    def judge(start: int) -> None:
        together.wait()
        for step in range(24):
            index = (start + step) % 8
            ours = backend.run(images[index : index + 1])
            np.testing.assert_array_equal(ours.maps, expected[index].maps)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(judge, start) for start in range(4)]:
            done.result()


def test_throughput_mode_gives_the_same(graph, backend) -> None:
    images = solar_cells(8, SIZE)
    with find_backend("openvino-throughput").open(Graph.of(graph), 1) as queued:
        assert queued.name == "openvino-throughput"
        assert queued.compiled_model().get_property("PERFORMANCE_HINT") == "THROUGHPUT"
        for batch in (images, images[:3], images[:1]):
            ours, theirs = queued.run(batch), backend.run(batch)
            np.testing.assert_allclose(ours.scores, theirs.scores, rtol=FP32.score)
            assert ours.maps.shape == theirs.maps.shape


def test_threads_are_pinned_only_when_asked(graph) -> None:
    for options, pinned in (({}, False), ({"pinning": True}, True)):
        with OpenVino(Graph.of(graph), 1, **options) as backend:
            assert backend.compiled_model().get_property("ENABLE_CPU_PINNING") is pinned


@pytest.mark.slow
def test_a_static_graph_runs(exported_static) -> None:
    with OpenVino(Graph.of(exported_static), 1) as backend:
        assert backend.run(solar_cells(1, SIZE)).scores.shape == (1, 1)


@pytest.fixture
def exported_static(tmp_path) -> Path:
    """The same graph at a batch of one."""
    return export(tmp_path / "static.onnx", max_batch=1)


def test_a_profile_names_the_parts(graph, backend) -> None:
    from kdx.runtime.stages import OTHER, stage_of, stages_of

    times = backend.node_times(solar_cells(2, SIZE), runs=3, warm_up=1)
    stages = stages_of("openvino", times)
    assert min(stages.input_ms, stages.networks_ms, stages.tail_ms) > 0
    # Nodes that belong to no part are layout conversions: if the names were lost, every node would
    # be one.
    assert sum(stage_of(name) == OTHER for name in times) < len(times) / 2


def test_closing(graph) -> None:
    backend = OpenVino(Graph.of(graph), 1)
    images = solar_cells(1, SIZE)
    backend.run(images)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run(images)


def test_wrong_batches_are_refused_and_the_next_one_runs(backend) -> None:
    images = solar_cells(2, SIZE)
    for wrong in (images[:, :32], images.astype(np.float32), images.astype(np.int8), images[:0], images[0]):
        with pytest.raises(BackendError, match="does not fit the graph"):
            backend.run(wrong)
    assert backend.run(images).scores.shape == (2, 1)


def test_a_graph_that_is_none_is_refused(tmp_path) -> None:
    for name, content in (("missing.onnx", None), ("torn.onnx", b"\x08\x0a\x12"), ("text.onnx", b"not a graph")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BackendError, match=name):
            OpenVino(Graph(tmp_path / name, sha256_bytes(content or b"")), 1)


# The cache.


def test_what_was_compiled_is_loaded_the_next_time(graph, tmp_path, monkeypatch) -> None:
    images = solar_cells(2, SIZE)
    with OpenVino(Graph.of(graph), 1, cache=tmp_path) as first:
        one, two = first.run(images[:1]), first.run(images)
    assert len(list(tmp_path.iterdir())) == 2  # one for each batch size
    monkeypatch.setattr(openvino_load, "compile_model", lambda *_: pytest.fail("compiled again"))
    with OpenVino(Graph.of(graph), 1, cache=tmp_path) as second:
        np.testing.assert_array_equal(second.run(images[:1]).maps, one.maps)
        np.testing.assert_array_equal(second.run(images).scores, two.scores)
        assert precisions(second, ("pair", "tail")) == {"f32"}


@pytest.mark.slow
def test_another_graph_under_the_same_name_is_compiled(graph, tmp_path) -> None:
    images = solar_cells(1, SIZE)
    path, cache = tmp_path / "model.onnx", tmp_path / "cache"
    path.write_bytes(graph.read_bytes())
    with OpenVino(Graph.of(path), 1, cache=cache) as backend:
        before = backend.run(images)
    altered(graph, path)
    with OpenVino(Graph.of(path), 1, cache=cache) as backend, OpenVino(Graph.of(path), 1) as uncached:
        after = backend.run(images)
        np.testing.assert_array_equal(after.maps, uncached.run(images).maps)
    assert not np.array_equal(before.maps, after.maps)


def test_what_earlier_versions_compiled_is_not_run(graph, tmp_path, monkeypatch) -> None:
    """They kept under a graph's hash what they had compiled from a file that had replaced it."""
    other = altered(graph, tmp_path / "other.onnx")
    images, cache = solar_cells(1, SIZE), BlobCache(tmp_path / "cache")
    keys: list[tuple[object, ...]] = []
    real = BlobCache.read
    monkeypatch.setattr(BlobCache, "read", lambda self, *key: keys.append(key) or real(self, *key))
    with OpenVino(Graph.of(graph), 1, cache=tmp_path / "unused") as backend, OpenVino(Graph.of(other), 1) as wrong:
        expected = backend.run(images)
        assert keys[0][0] == "blob 2"
        cache.write(wrong.compiled_model().export_model().getvalue(), *keys[0][1:])
    with OpenVino(Graph.of(graph), 1, cache=cache.folder) as backend:
        np.testing.assert_array_equal(backend.run(images).maps, expected.maps)


def test_precisions_do_not_share_blobs(graph, tmp_path) -> None:
    if not openvino_load.offers_bf16():
        pytest.skip("this CPU has no BF16")
    images = solar_cells(1, SIZE)
    with (
        OpenVino(Graph.of(graph), 1, precision="bf16", cache=tmp_path) as half,
        OpenVino(Graph.of(graph), 1, cache=tmp_path) as exact,
    ):
        assert half.run(images).scores != exact.run(images).scores
        assert precisions(exact, ("pair", "tail")) == {"f32"}
    with OpenVino(Graph.of(graph), 1, precision="bf16", cache=tmp_path) as half:
        assert precisions(half, ("tail", "anomaly")) == {"f32"}
        assert "bf16" in precisions(half, ("pair",))


@pytest.mark.parametrize("damage", ["torn", "empty", "zeros"])
def test_a_damaged_blob_is_made_again(graph, tmp_path, damage) -> None:
    images = solar_cells(1, SIZE)
    with OpenVino(Graph.of(graph), 1, cache=tmp_path) as backend:
        expected = backend.run(images)
    (blob,) = tmp_path.iterdir()
    whole = blob.read_bytes()
    middle = len(whole) // 2
    blob.write_bytes(
        {"torn": whole[:middle], "empty": b"", "zeros": whole[:middle] + bytes(4000) + whole[middle + 4000 :]}[damage]
    )
    with OpenVino(Graph.of(graph), 1, cache=tmp_path) as backend:
        np.testing.assert_array_equal(backend.run(images).maps, expected.maps)
    assert len(blob.read_bytes()) == len(whole)


def test_a_blob_of_another_kind_is_skipped(graph, tmp_path) -> None:
    images = solar_cells(1, SIZE)
    with OpenVino(Graph.of(graph), 1, cache=tmp_path) as backend:
        expected = backend.run(images)
    (blob,) = tmp_path.iterdir()
    import hashlib

    other = b"whole, but no model"
    blob.write_bytes(hashlib.sha256(other).digest() + other)
    with OpenVino(Graph.of(graph), 1, cache=tmp_path) as backend:
        np.testing.assert_array_equal(backend.run(images).maps, expected.maps)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time_and_is_said(graph, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    said = pytest.warns(RuntimeWarning, match="cannot be written: File exists.*KDX_CACHE_DIR")
    with said, OpenVino(Graph.of(graph), 1, cache=tmp_path / "file") as backend:
        assert np.isfinite(backend.run(solar_cells(1, SIZE)).scores).all()


def test_the_factory_caches_where_the_variable_says(graph, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with kdx_openvino.openvino_backend(Graph.of(graph), 1) as backend:
        assert backend.name == "openvino"
    assert len(list((tmp_path / "openvino").glob("*.blob"))) == 1
    monkeypatch.setenv(VARIABLE, "")
    assert cache_folder() is None
    with kdx_openvino.openvino_backend(Graph.of(graph), 1):
        pass


def test_the_oldest_blobs_go_first(tmp_path, monkeypatch) -> None:
    import os

    monkeypatch.setattr("kdx.runtime.openvino.blob_cache._MOST_BYTES", 3000)
    cache = BlobCache(tmp_path)
    for index in range(4):
        cache.write(bytes([index]) * 900, index)
        for age, path in enumerate(sorted(tmp_path.iterdir(), key=lambda p: -p.stat().st_mtime)):
            os.utime(path, (1e9 - age, 1e9 - age))
    assert cache.read(0) is None
    assert [cache.read(index) == bytes([index]) * 900 for index in (1, 2, 3)] == [True] * 3


def test_the_cache_stands_in_the_users_folder(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "kdx"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "kdx"
