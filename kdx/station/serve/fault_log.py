"""Faults of kdx itself, in the log of the server."""

from __future__ import annotations

import contextlib
import traceback


def log_fault() -> None:
    """Print the exception that is handled. A log that cannot be written changes no answer."""
    with contextlib.suppress(OSError):
        traceback.print_exc()
