"""What takes seconds to make is made by one test process, and the others take it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdx.storage.locks import lock, open_to_lock


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all processes of this test run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that no test may change, filled by whichever process of this test run asks
    for it first.

    Args:
        factory: Knows where this run's folders lie.
        name: Of the folder.
        make: Fills an empty folder.
    """
    root = shared_folder(factory)
    folder, turnstile = root / "once" / name, root / "turnstiles" / name
    turnstile.mkdir(parents=True, exist_ok=True)
    done = turnstile / "done"
    handle = open_to_lock(turnstile)  # None on Windows, where tests run in one process
    try:
        while not done.exists():
            try:
                if handle is not None:
                    lock(handle)
            except BlockingIOError:  # another process is at it
                time.sleep(0.1)
                continue
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a test process that failed has left
                folder.mkdir(parents=True)
                make(folder)
                done.touch()
    finally:
        if handle is not None:
            os.close(handle)
    return folder
