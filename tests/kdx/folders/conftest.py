"""Folders that the user may not use, also for root, who runs the tests in containers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def close(monkeypatch) -> Callable[..., None]:
    """Take the permission to list a folder, and that to enter it unless ``may_enter``."""
    unlisted: set[Path] = set()
    closed: set[Path] = set()

    def guard(owner: Any, name: str, is_refused: Callable[[Path], bool]) -> None:
        original = getattr(owner, name)

        def guarded(path, *args, **kwargs):
            if not isinstance(path, int) and is_refused(Path(path)):
                raise PermissionError(13, "Permission denied", str(path))
            return original(path, *args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    def close(folder: Path, *, may_enter: bool = False) -> None:
        unlisted.add(folder)
        if not may_enter:
            closed.add(folder)

    guard(os, "scandir", lambda path: path in unlisted)
    guard(Path, "iterdir", lambda path: path in unlisted)
    guard(Path, "stat", lambda path: path.parent in closed)
    return close
