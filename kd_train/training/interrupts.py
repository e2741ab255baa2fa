"""Ctrl-C and SIGTERM during training do not interrupt the writing of a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Raises ``KeyboardInterrupt`` on SIGINT and SIGTERM, but not within :meth:`delayed`.

    Handlers that an application has set are kept. Only the main thread can have handlers.
    """

    def __init__(self) -> None:
        self._delays = self._is_waiting = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # The second one is also what a command sets for SIGTERM.
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """Raise an interrupt that comes within the block after its end."""
        self._delays = True
        try:
            yield
        finally:
            self._delays = False
        if self._is_waiting:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._delays:
            raise KeyboardInterrupt
        self._is_waiting = True
