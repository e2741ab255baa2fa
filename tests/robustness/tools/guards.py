"""What a piece of work may use: files and time."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import kdx


class _Opened:
    """Which files are opened, by an audit hook, which is never removed but can be idle."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None
        self.outside: list[str] = []
        self.hooked = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None or event != "open" or not isinstance(arguments[0], (str, bytes, Path)):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.startswith(self.allowed):
            self.outside.append(path)


_opened = _Opened()


@contextlib.contextmanager
def only_inside(folder: Path) -> Iterator[None]:
    """Fail where a file outside the folder is opened, except for what Python itself opens."""
    if not _opened.hooked:
        sys.addaudithook(_opened)
        _opened.hooked = True
    paths = sysconfig.get_paths()
    own = [str(Path(kdx.__file__).parent.parent), paths["stdlib"], paths["purelib"], paths["platlib"], "/proc", "/dev"]
    _opened.allowed = (os.path.realpath(folder), *map(os.path.realpath, own))
    _opened.outside.clear()
    try:
        yield
    finally:
        _opened.allowed = None
    assert not _opened.outside, f"opened outside the bundle: {_opened.outside}"


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise ``TimeoutError`` in a block that takes longer; the block may catch it."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not finished after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
