"""A new batch size is compiled once, beside what other threads run, or at load."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.errors import OptionError
from kdx.runtime.tiled import graph_batches
from kdx.verification import golden
from tests.kdx.runtime.openvino.gate import PATIENCE, Gate
from tests.students import other_bundle, other_student


@pytest.fixture
def compiled(monkeypatch) -> Gate:
    """The gate before OpenVINO's compiler, by batch size; what is compiled is the real thing."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
    from kdx.runtime.openvino import backend as openvino
    from kdx.runtime.openvino import shared_teacher as openvino_shared

    gate = Gate()
    real = openvino.load_compiled

    def load(cache, config, content, model):
        gate(content[-1])
        return real(cache, config, content, model)

    for module in (openvino, openvino_shared):
        monkeypatch.setattr(module, "load_compiled", load)
    return gate


@pytest.fixture
def products(tiny_bundle, tmp_path) -> list:
    return [tiny_bundle, other_bundle(tiny_bundle, tmp_path / "other.kdx", functools.partial(other_student, seed=2))]


@pytest.mark.parametrize("is_shared", [False, True])
def test_single_images_do_not_wait_for_a_new_size(products, frame, compiled, is_shared) -> None:
    if is_shared:
        group = kdx.load_many(products, backend="openvino", threads=1, shared_teacher=True)
        detector = group["tiny"]
    else:
        detector = group = kdx.load(products[0], backend="openvino", threads=1)
    compiled.closed = {3}
    before = len(compiled.made)
    with group, ThreadPoolExecutor(2) as pool:
        alone = detector(frame).score
        batches = [pool.submit(detector.batch, [frame] * 3) for _ in range(2)]
        assert compiled.reached.wait(PATIENCE)
        assert detector(frame).score == alone  # while three are being compiled
        compiled.opened.set()
        for batch in batches:
            assert [v.score for v in batch.result(PATIENCE)] == pytest.approx([alone] * 3, rel=1e-4)
    # Once, though two threads asked: the graph, or its teacher and its student.
    assert compiled.made[before:] == [3] * (2 if is_shared else 1)


@pytest.mark.slow
@pytest.mark.parametrize("is_shared", [False, True])
def test_single_images_are_never_compiled_again(products, frame, compiled, is_shared) -> None:
    if is_shared:
        group = kdx.load_many(products, backend="openvino", threads=1, shared_teacher=True)
        detector = group["tiny"]
    else:
        detector = group = kdx.load(products[0], backend="openvino", threads=1)
    with group:
        for size in (2, 3, 4, 5, 6, 7):
            detector.batch([frame] * size)
        compiled.made.clear()
        detector(frame)
    assert compiled.made == []


@pytest.mark.slow
def test_sizes_that_are_named_are_compiled_at_load_and_kept(tiny_bundle, frame, compiled) -> None:
    sizes = (2, 3, 4, 5, 6, 40)
    with kdx.load(tiny_bundle, backend="openvino", threads=1, batch_sizes=sizes) as detector:
        assert sorted(compiled.made) == [1, 2, 3, 4, 5, 6, 8, 32]  # 40 go through as 32 and 8
        compiled.made.clear()
        for size in (1, *sizes, 7, 9, 10, 11, 12, *sizes, 1):
            assert len(detector.batch([frame] * size)) == size
    assert compiled.made == [7, 9, 10, 11, 12]


def test_sizes_of_a_group(products, frame, compiled) -> None:
    with kdx.load_many(products, backend="openvino", threads=1, shared_teacher=True, batch_sizes=(4,)) as group:
        assert sorted(compiled.made) == [1, 1, 1, 4, 4, 4]  # the teacher and two students
        compiled.made.clear()
        for name in group:
            group[name].batch([frame] * 4)
            group[name](frame)
    assert compiled.made == []


@pytest.mark.parametrize("sizes", [None, (1,)])
def test_sizes_of_tiles(tiled, compiled, sizes) -> None:
    bundle = tiled / "tile.kdx"
    frame = open_bundle(bundle).camera_images()[0]
    options = {"backend": "openvino", "precision": "fp32", "threads": 1}
    with kdx.load(bundle, **options, batch_sizes=sizes) as detector:
        compiled.made.clear()
        assert np.isfinite(detector(frame).score)
    assert compiled.made == []


def test_batches_of_a_graph() -> None:
    assert graph_batches(object(), (1,), 32) == [1]
    assert graph_batches(object(), (8, 40, 64), 32) == [1, 8, 32]
    assert graph_batches(object(), (3,), 1) == [1]


@pytest.fixture
def compared(monkeypatch) -> list[int]:
    """Batch sizes at which golden images were compared."""
    found: list[int] = []

    real = golden.compare_batch

    def spy(graph, images, batch, *others):
        found.append(batch)
        return real(graph, images, batch, *others)

    monkeypatch.setattr(golden, "compare_batch", spy)
    return found


def test_golden_images_are_compared_at_the_sizes_too(tiny_bundle, compared) -> None:
    kdx.load(tiny_bundle, backend="onnxruntime-cpu", threads=1, batch_sizes=(8,)).close()
    kdx.load(tiny_bundle, backend="onnxruntime-cpu", threads=1).close()
    assert compared == [1, 8, 1]


def test_golden_images_of_tiles_are_compared_at_the_sizes_of_a_frame(tiled, compared) -> None:
    with kdx.load(tiled / "tile.kdx", backend="onnxruntime-cpu", threads=1, precision="fp32") as detector:
        assert compared == sorted({1, *detector.backend.graph_batches})
    assert compared[-1] > 1


def test_numbers_of_numpy_are_sizes(tiny_bundle, frame, compiled) -> None:
    sizes = np.array([2, 3])
    with kdx.load(tiny_bundle, backend="openvino", threads=1, batch_sizes=sizes) as detector:
        compiled.made.clear()
        detector.batch([frame] * 3)
    assert compiled.made == []


@pytest.mark.parametrize("sizes", [(), (0,), (1, -2), [2.5], "12", 3, [None], np.array([]), np.array([1.0, 8.0])])
def test_invalid_sizes(tiny_bundle, sizes) -> None:
    with pytest.raises(OptionError, match="invalid `batch_sizes`"):
        kdx.load(tiny_bundle, batch_sizes=sizes)
    with pytest.raises(OptionError, match="invalid `batch_sizes`"):
        kdx.load_many([tiny_bundle], batch_sizes=sizes)


def test_a_run_takes_no_sizes(tiny_run) -> None:
    with pytest.raises(OptionError, match="nothing is compiled"):
        kdx.load(tiny_run, batch_sizes=(1,))


def test_numbers_of_threads_may_be_numpys(tiny_bundle, frame, monkeypatch, tmp_path):
    monkeypatch.setenv("KDX_CACHE_DIR", str(tmp_path))
    with kdx.load(tiny_bundle, threads=np.int64(1)) as one, kdx.load_many([tiny_bundle], threads=np.int64(1)) as many:
        assert one(frame).decision is many["tiny"](frame).decision
        assert [type(each.origin.threads) for each in (one, many["tiny"])] == [int, int]
