"""Keeps values that take long to make, such as compiled models; each is made once.

``embed/src/batch_cache.h`` is its counterpart.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

from kdx.errors import BackendError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BatchCache(Generic[K, V]):
    """Values by key, such as the batch size.

    The first thread that asks for a key makes its value. Threads that ask for other keys do not
    wait for it.

    Args:
        make: Makes the value of a key. It runs without a lock. Its exception is raised in every
            thread that waits for the value, and the next call makes the value again.
        room: The number of values to hold besides those of :meth:`keep`; the least recently used
            value is dropped first. None for no limit.
    """

    def __init__(self, make: Callable[[K], V], room: int | None = None) -> None:
        self._make = make
        self._room = room
        self._values: OrderedDict[K, Future[V]] = OrderedDict()
        self._never_dropped: set[K] = set()
        self._lock = threading.Lock()
        self._closed = False

    def get(self, key: K) -> V:
        """Return the value of a key.

        Raises:
            BackendError: The cache is closed.
        """
        with self._lock:
            if self._closed:
                raise BackendError("the detector is closed", fix="load the bundle again")
            value = self._values.get(key)
            is_ours = value is None
            if value is None:
                value = self._values[key] = Future()
            self._values.move_to_end(key)
            self._drop_oldest()
        if is_ours:
            self._fill(key, value)
        return value.result()

    def made(self) -> dict[K, V]:
        """Return the values that exist now."""
        with self._lock:
            return {key: value.result() for key, value in self._values.items() if value.done()}

    def keep(self, keys: Iterable[K]) -> None:
        """Never drop the values of these keys, however many other keys are used."""
        with self._lock:
            self._never_dropped.update(keys)

    def close(self) -> None:
        """Drop every value. A caller that has one may use it to the end."""
        with self._lock:
            self._closed = True
            self._values.clear()

    def _fill(self, key: K, value: Future[V]) -> None:
        try:
            made = self._make(key)
        except BaseException as error:
            with self._lock:
                if self._values.get(key) is value:
                    del self._values[key]
            # An interrupt is meant for the thread that it reached.
            for_others = error if isinstance(error, Exception) else BackendError("interrupted while it was compiled")
            value.set_exception(for_others)
            raise
        value.set_result(made)

    def _drop_oldest(self) -> None:
        if self._room is None or len(self._values) <= self._room:
            return
        used = [key for key in self._values if key not in self._never_dropped]
        # A value that is being made stays, because the next call for it would make it a second
        # time; so does the value that was used last.
        droppable = [key for key in used[:-1] if self._values[key].done()]
        for key in droppable[: max(0, len(used) - self._room)]:
            del self._values[key]
