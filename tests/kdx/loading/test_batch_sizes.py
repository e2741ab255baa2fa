"""A new batch size is compiled once, beside what other threads run, or at load."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.errors import BackendError, OptionError
from kdx.runtime.kept import Kept
from kdx.runtime.tiled import graph_batches
from kdx.verification.golden import GoldenCheck
from tests.students import other_bundle, other_student

# Long enough on any machine; a test that needs it has failed.
PATIENCE = 60.0


class Gate:
    """Makes values, and waits in those of some keys until it is opened."""

    def __init__(self, *closed: object) -> None:
        self.closed = set(closed)
        self.opened = threading.Event()
        self.reached = threading.Event()
        self.made: list[object] = []

    def __call__(self, key: object) -> str:
        self.made.append(key)
        if key in self.closed:
            self.reached.set()
            assert self.opened.wait(PATIENCE)
        return f"value {key}"


def test_who_wants_another_key_does_not_wait() -> None:
    gate = Gate(8)
    kept = Kept(gate)
    assert kept.get(1) == "value 1"
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(kept.get, 8)
        assert gate.reached.wait(PATIENCE)
        second = pool.submit(kept.get, 8)  # waits for the first
        assert kept.get(1) == "value 1"  # here, while 8 is being made
        assert kept.get(2) == "value 2"
        assert kept.made() == {1: "value 1", 2: "value 2"}
        gate.opened.set()
        assert first.result(PATIENCE) == second.result(PATIENCE) == "value 8"
    assert gate.made == [1, 8, 2]


@pytest.mark.parametrize(("raised", "told"), [(ValueError, ValueError), (KeyboardInterrupt, BackendError)])
def test_a_failure_ends_every_wait_and_the_next_call_tries_again(raised, told) -> None:
    reached, fail = threading.Event(), threading.Event()
    made: list[int] = []

    def make(key: int) -> int:
        made.append(key)
        if len(made) == 1:
            reached.set()
            assert fail.wait(PATIENCE)
            raise raised
        return key

    kept = Kept(make)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(kept.get, 1)
        assert reached.wait(PATIENCE)
        second = pool.submit(kept.get, 1)
        fail.set()
        assert isinstance(first.exception(PATIENCE), raised)
        # It waited for the first, or came so late that it tried again.
        assert isinstance(second.exception(PATIENCE), (told, type(None)))
    assert kept.get(1) == 1


def test_the_least_recently_used_goes_unless_it_is_to_be_kept() -> None:
    kept = Kept(Gate(), most=2)
    kept.keep([1])
    for key in (1, 2, 3, 2, 4):
        kept.get(key)
    assert set(kept.made()) == {1, 2, 4}
    kept.close()
    assert kept.made() == {}
    with pytest.raises(BackendError, match="closed"):
        kept.get(1)


def test_what_is_being_made_is_not_dropped() -> None:
    gate = Gate(1)
    kept = Kept(gate, most=2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(kept.get, 1)
        assert gate.reached.wait(PATIENCE)
        for key in (2, 3, 4):
            kept.get(key)
        second = pool.submit(kept.get, 1)
        gate.opened.set()
        assert first.result(PATIENCE) == second.result(PATIENCE) == "value 1"
    assert gate.made == [1, 2, 3, 4]
    kept.get(5)
    assert len(kept.made()) == 2


def test_closing_while_it_is_made_keeps_nothing() -> None:
    gate = Gate(1)
    kept = Kept(gate)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(kept.get, 1)
        assert gate.reached.wait(PATIENCE)
        kept.close()
        gate.opened.set()
        assert waiting.result(PATIENCE) == "value 1"  # a call that is under way ends as usual
    assert kept.made() == {}


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

    real = GoldenCheck.compare

    def spy(check, backend, precision, batches):
        found.extend(batches)
        return real(check, backend, precision, batches)

    monkeypatch.setattr(GoldenCheck, "compare", spy)
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
    with pytest.raises(OptionError, match="invalid batch sizes"):
        kdx.load(tiny_bundle, batch_sizes=sizes)
    with pytest.raises(OptionError, match="invalid batch sizes"):
        kdx.load_many([tiny_bundle], batch_sizes=sizes)


def test_a_run_takes_no_sizes(tiny_run) -> None:
    with pytest.raises(OptionError, match="nothing is compiled"):
        kdx.load(tiny_run, batch_sizes=(1,))
