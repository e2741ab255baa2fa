"""A stand-in for what makes values, which waits until a test lets it go on."""

from __future__ import annotations

import threading

# Long enough on any machine; a test that needs it has failed.
PATIENCE = 60.0


class Gate:
    """Makes values, and waits in those of some keys until it is opened."""

    def __init__(self, *closed: object) -> None:
        self.closed = set(closed)
        self.opened = threading.Event()
        self.reached = threading.Event()
        self.made: list[object] = []

    def __call__(self, key: object) -> str:
        self.made.append(key)
        if key in self.closed:
            self.reached.set()
            assert self.opened.wait(PATIENCE)
        return f"value {key}"
