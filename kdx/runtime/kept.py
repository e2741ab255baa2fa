"""What takes long to make and is kept: made once for a key, beside whatever others already use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future
from typing import Generic, TypeVar

from kdx.errors import BackendError

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key. The first thread that asks for a key makes its value; threads with other keys do not wait for it.

    Args:
        make: Makes the value of a key. It runs without a lock. What it raises is raised in every thread that waits for
            that value, and the next call tries again.
        most: How many values are kept; the least recently used go first. None keeps all.
    """

    def __init__(self, make: Callable[[K], V], most: int | None = None) -> None:
        self._make = make
        self._most = most
        self._found: OrderedDict[K, Future[V]] = OrderedDict()
        self._always: set[K] = set()
        self._lock = threading.Lock()
        self._closed = False

    def get(self, key: K) -> V:
        """Return the value of a key.

        Raises:
            BackendError: Closed.
        """
        with self._lock:
            if self._closed:
                raise BackendError("the detector is closed", fix="load the bundle again")
            found = self._found.get(key)
            is_ours = found is None
            if found is None:
                found = self._found[key] = Future()
            self._found.move_to_end(key)
            self._drop_oldest()
        if is_ours:
            self._fill(key, found)
        return found.result()

    def made(self) -> dict[K, V]:
        """Return the values that there are now."""
        with self._lock:
            return {key: found.result() for key, found in self._found.items() if found.done()}

    def keep(self, keys: Iterable[K]) -> None:
        """Never drop the values of these keys, however many others are used."""
        with self._lock:
            self._always.update(keys)

    def close(self) -> None:
        """Forget every value. Who holds one may use it to the end."""
        with self._lock:
            self._closed = True
            self._found.clear()

    def _fill(self, key: K, found: Future[V]) -> None:
        try:
            value = self._make(key)
        except BaseException as error:
            with self._lock:
                if self._found.get(key) is found:
                    del self._found[key]
            # An interrupt is for the thread that it reached.
            others = error if isinstance(error, Exception) else BackendError("interrupted while it was compiled")
            found.set_exception(others)
            raise
        found.set_result(value)

    def _drop_oldest(self) -> None:
        if self._most is None:
            return
        used = [key for key in self._found if key not in self._always]
        # Not what is being made: the next call for it would make it a second time. Nor what was used last.
        droppable = [key for key in used[:-1] if self._found[key].done()]
        for key in droppable[: max(0, len(used) - self._most)]:
            del self._found[key]
