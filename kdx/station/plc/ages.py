"""How long verdicts have waited for the PLC, so that none is taken for a part that came later."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ages:
    """The ages of the messages in the outbox, by a clock that does not jump.

    What an earlier process left is too old: nothing says for how long it has waited.

    Args:
        most: The largest age in seconds; None where no message is too old.
        clock: Seconds of a clock that does not jump.
    """

    def __init__(self, most: float | None, clock: Callable[[], float]) -> None:
        self._most, self._clock = most, clock
        self._since: dict[int, float] = {}
        self._lock = threading.Lock()

    def note(self, message: int, since: float) -> None:
        """Take notice of a message before it is committed: when its part was seen."""
        if self._most is not None:
            with self._lock:
                while self._since and self._is_over(first := next(iter(self._since))):
                    del self._since[first]  # so memory is bounded while the PLC is away
                self._since[message] = since

    def is_over(self, message: int) -> bool:
        """Whether a message is too old."""
        with self._lock:
            return self._most is not None and self._is_over(message)

    def forget(self, message: int) -> None:
        """Forget a message that the PLC took."""
        with self._lock:
            self._since.pop(message, None)

    def _is_over(self, message: int) -> bool:
        assert self._most is not None
        return self._clock() - self._since.get(message, float("-inf")) > self._most
