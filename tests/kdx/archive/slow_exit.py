"""Processes that exit slowly: they wait for files, so that no test depends on how fast they are."""

from __future__ import annotations

import contextlib
import time
from multiprocessing.connection import Connection
from pathlib import Path

_DEADLINE_S = 120.0  # ends a test that would hang


def write(file: Path) -> None:
    """Tell another process that something happened."""
    file.write_bytes(b"")


def wait_for_file(file: Path) -> None:
    """Wait until another process writes a file."""
    deadline = time.monotonic() + _DEADLINE_S
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody wrote '{file}'")
        time.sleep(0.01)


def exit_slowly(connection: Connection, folder: Path) -> None:
    """Wait until the pipe is closed, and exit only after a file was written."""
    with contextlib.suppress(EOFError):
        connection.recv()
    write(folder / "is exiting")
    wait_for_file(folder / "may exit")
    write(folder / "exited")


def answer_after_another(connection: Connection, folder: Path, answer: object) -> None:
    """Send an answer only when the other process is exiting."""
    wait_for_file(folder / "is exiting")
    connection.send(answer)
