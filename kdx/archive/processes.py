"""Child processes that work on orders from a pipe, and whose death is noticed and explained.

If one process of the standard library's process pool is killed, the whole pool fails, and nobody
knows which order that process had. Here every process has a pipe of its own, so that whoever gave
an order knows which one was lost.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection as pipes
from multiprocessing.connection import Connection
from typing import Any

# What numerical libraries read when they are loaded.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# A death that closes no pipe, because a child's own children hold its ends open, is noticed within
# this time.
_POLL_S = 1.0
_EXIT_S = 10.0
KILLED = "killed by SIGKILL"  # how Child.end describes what Linux does when memory is short

Serve = Callable[[Connection, Any], None]


class Child:
    """A new process that dies with this one, together with its own children.

    Args:
        serve: The function that it runs: one of a module, called with its end of the pipe and
            ``argument``.
        argument: Anything that can be pickled.
        threads: For numerical libraries that ask the environment; None leaves it as it is.
    """

    def __init__(self, serve: Serve, argument: object, *, threads: int | None = None) -> None:
        # Spawned, not forked: it inherits no threads and locks of this process.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(serve, theirs, argument))
        self._is_closed = False
        with _environment(threads):
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid or 0

    def is_alive(self) -> bool:
        """Whether the process is still running."""
        return self._process.is_alive()

    def end(self) -> str:
        """Describe how the process ended, after its pipe was closed or it died."""
        self._process.join(_EXIT_S)
        status = self._process.exitcode
        if status is None:
            return "it closed its pipe"
        return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

    def has_exited(self, seconds: float = 0.0) -> bool:
        """Wait at most so many seconds for the process, and return whether it has exited."""
        self._process.join(max(0.0, seconds))
        return self._process.exitcode is not None

    def close(self) -> None:
        """Kill the process and its children, whatever they are doing. Closing twice is harmless."""
        if self._is_closed:
            return
        self._is_closed = True
        self._kill()
        self._process.join()
        self.connection.close()
        self._process.close()

    def _kill(self) -> None:
        if hasattr(os, "killpg"):
            # Its group: gone with it, unless the process died and left children behind.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()


class LeavingChildren:
    """Idle processes that exit by themselves, and thereby remove their semaphores.

    Nobody waits for one of them while others still work. What has not exited in time is killed.
    """

    def __init__(self) -> None:
        self._leaving: list[tuple[Child, float]] = []

    def add(self, child: Child) -> None:
        """Let a process exit: its pipe is closed."""
        self._leaving.append((child, time.monotonic() + _EXIT_S))
        child.connection.close()

    def collect(self) -> None:
        """Free the processes that have exited, without waiting for the others."""
        remaining = []
        for child, deadline in self._leaving:
            if child.has_exited() or time.monotonic() > deadline:
                child.close()
            else:
                remaining.append((child, deadline))
        self._leaving = remaining

    def wait(self) -> None:
        """Wait until every process has exited, and kill those that do not in time."""
        for child, deadline in self._leaving:
            child.has_exited(deadline - time.monotonic())
        self.close()

    def close(self) -> None:
        """Kill the processes that have not exited. Closing twice is harmless."""
        for child, _ in self._leaving:
            child.close()
        self._leaving = []


def wait_for(children: Sequence[Child]) -> list[Child]:
    """Wait until some children have sent something or are dead, and return those."""
    while True:
        ready = pipes.wait([child.connection for child in children], timeout=_POLL_S)
        found = [child for child in children if child.connection in ready or not child.is_alive()]
        if found:
            return found


def _run(serve: Serve, connection: Connection, argument: object) -> None:
    """Run in the child."""
    if hasattr(os, "setpgid"):
        # Ctrl-C goes to the parent's group, and the parent decides. Not a session of its own: Linux
        # would then ignore the parent's nice value when it schedules the child.
        os.setpgid(0, 0)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    serve(connection, argument)


def _die_with_parent() -> None:
    """End this process with its parent, because nobody waits for its result any more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


@contextlib.contextmanager
def _environment(threads: int | None) -> Iterator[None]:
    """Set the environment that a child inherits."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    if threads is not None:
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
