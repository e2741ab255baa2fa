"""Values that take long to make: made once, beside what other threads use, and dropped in order of
use."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kdx.errors import BackendError
from kdx.runtime.openvino.batch_cache import BatchCache
from tests.kdx.runtime.openvino.gate import PATIENCE, Gate


def test_who_wants_another_key_does_not_wait() -> None:
    gate = Gate(8)
    cache = BatchCache(gate)
    assert cache.get(1) == "value 1"
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cache.get, 8)
        assert gate.reached.wait(PATIENCE)
        second = pool.submit(cache.get, 8)  # waits for the first
        assert cache.get(1) == "value 1"  # here, while 8 is being made
        assert cache.get(2) == "value 2"
        assert cache.made() == {1: "value 1", 2: "value 2"}
        gate.opened.set()
        assert first.result(PATIENCE) == second.result(PATIENCE) == "value 8"
    assert gate.made == [1, 8, 2]


@pytest.mark.parametrize(("raised", "waiter"), [(ValueError, ValueError), (KeyboardInterrupt, BackendError)])
def test_a_failure_ends_every_wait_and_the_next_call_tries_again(raised, waiter) -> None:
    reached, fail = threading.Event(), threading.Event()
    made: list[int] = []

    def make(key: int) -> int:
        made.append(key)
        if len(made) == 1:
            reached.set()
            assert fail.wait(PATIENCE)
            raise raised
        return key

    cache = BatchCache(make)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, 1)
        assert reached.wait(PATIENCE)
        second = pool.submit(cache.get, 1)
        fail.set()
        assert isinstance(first.exception(PATIENCE), raised)
        # It waited for the first, or came so late that it tried again.
        assert isinstance(second.exception(PATIENCE), (waiter, type(None)))
    assert cache.get(1) == 1


def test_the_least_recently_used_goes_unless_it_is_to_be_kept() -> None:
    cache = BatchCache(Gate(), room=2)
    cache.keep([1])
    for key in (1, 2, 3, 2, 4):
        cache.get(key)
    assert set(cache.made()) == {1, 2, 4}
    cache.close()
    assert cache.made() == {}
    with pytest.raises(BackendError, match="closed"):
        cache.get(1)


def test_what_is_being_made_is_not_dropped() -> None:
    gate = Gate(1)
    cache = BatchCache(gate, room=2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, 1)
        assert gate.reached.wait(PATIENCE)
        for key in (2, 3, 4):
            cache.get(key)
        second = pool.submit(cache.get, 1)
        gate.opened.set()
        assert first.result(PATIENCE) == second.result(PATIENCE) == "value 1"
    assert gate.made == [1, 2, 3, 4]
    cache.get(5)
    assert len(cache.made()) == 2


def test_closing_while_it_is_made_keeps_nothing() -> None:
    gate = Gate(1)
    cache = BatchCache(gate)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.get, 1)
        assert gate.reached.wait(PATIENCE)
        cache.close()
        gate.opened.set()
        assert waiting.result(PATIENCE) == "value 1"  # a call that is under way ends as usual
    assert cache.made() == {}
