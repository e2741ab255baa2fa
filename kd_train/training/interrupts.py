"""Ctrl-C and SIGTERM while training: neither cuts the writing of a checkpoint short."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Raises ``KeyboardInterrupt`` on SIGINT and on SIGTERM; while they are held, afterwards.

    Handlers that an application has set are left as they are, and only the main thread can have any.
    """

    def __init__(self) -> None:
        self._held = self._is_waiting = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) == usual:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the block end before an interrupt is raised."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._is_waiting:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._held:
            raise KeyboardInterrupt
        self._is_waiting = True
