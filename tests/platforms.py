"""What tests need of the system that they run on: marks that skip with a reason."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import pytest


@functools.cache
def can_link() -> bool:
    """Whether this user may make symbolic links: on Windows it takes a privilege."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / "link").symlink_to(folder)
        except OSError:
            return False
        return True


needs_links = pytest.mark.skipif(not can_link(), reason="this user may make no symbolic links")
needs_posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes, modes, owners and signals")
