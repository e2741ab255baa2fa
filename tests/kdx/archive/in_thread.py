"""A thread that stands in for a process of ``kdx score`` or ``kdx train-many``, for tests that are
not about processes: to start one takes seconds."""

from __future__ import annotations

import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from kdx.archive.processes import Serve


class ThreadChild:
    """What ``kdx.archive.processes.Child`` is, in this process."""

    def __init__(self, serve: Serve, argument: object, *, threads: int | None = None) -> None:
        self.connection, theirs = Pipe()
        self._thread = threading.Thread(target=self._run, args=(serve, theirs, argument))
        self._thread.start()

    @staticmethod
    def _run(serve: Serve, connection: Connection, argument: object) -> None:
        with connection:
            serve(connection, argument)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def has_exited(self, seconds: float = 0.0) -> bool:
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def close(self) -> None:
        """Let it end with the order that it has; a process would be killed."""
        self.connection.close()
        self._thread.join()
