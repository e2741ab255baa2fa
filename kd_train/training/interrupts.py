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

    Python drops what is raised while an object is deleted or a process is forked, so the exception
    may be lost: :meth:`check`, the end of :meth:`delayed` and the end of the block raise it again.
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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise an interrupt that came and did not end the block."""
        if self._is_waiting:
            raise KeyboardInterrupt

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """Raise an interrupt that comes within the block after its end."""
        self._delays = True
        try:
            yield
        finally:
            self._delays = False
        self.check()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._is_waiting = True
        if not self._delays:
            raise KeyboardInterrupt
