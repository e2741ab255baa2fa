"""A worker: a process that answers messages, whose death or silence is an error with a reason.

Messages are JSON, so that both sides may be different Pythons, and have a socket to themselves, so
that a library may print what it likes. Needs POSIX: the worker inherits the socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.commands import ROOT

_DYING_S = 5.0


class GoneError(Exception):
    """A worker died, hung, or raised."""


class WorkerProcess:
    """A worker as the coordinator sees it.

    ``module`` is run and gets the number of its socket; ``log`` receives what it prints. Another
    interpreter, whose command is ``python``, gets none of this one's paths but the checkout.
    """

    def __init__(self, module: str, log: Path, environment: dict[str, str], python: Sequence[str] = ()) -> None:
        self._log = log
        self._connection, theirs = Pipe()
        if python:
            environment = {**environment, "PYTHONPATH": str(ROOT)}
        with theirs, log.open("wb") as output:
            # A session of its own: Ctrl-C is for the coordinator, which then ends the worker with
            # its children.
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                [*(python or [sys.executable]), "-m", module, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message; that a worker is gone shows in ``hear``."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(json.dumps(message).encode())

    def hear(self, limit_s: float) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            GoneError: There is none, or it is an error. The worker is ended: what hangs would go on
                taking the cores.
        """
        try:
            if not self._connection.poll(limit_s):
                raise GoneError(f"no answer within {limit_s:g} s")
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
            if "error" in answer:
                raise GoneError(" ".join(answer["error"].split())[:400])
        except (EOFError, OSError, GoneError) as end:
            reason = str(end) if isinstance(end, GoneError) else self._last_words()
            self.close()
            raise GoneError(reason) from end
        return answer

    def close(self) -> None:
        """End the process and all that it started; who waits for an answer gets ``GoneError``."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._connection.close()

    def _last_words(self) -> str:
        """Say how the process ended, with the last line that it printed."""
        if self._process is None:
            return "the worker was ended"
        try:
            status = self._process.wait(_DYING_S)
        except subprocess.TimeoutExpired:
            return "the worker closed its socket"
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"the worker died ({how})" + (f": {last[:300]}" if last else "")


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """In the worker: answer each message until the coordinator hangs up, or one raises."""
    with Connection(int(sys.argv[1])) as connection:
        while True:
            try:
                message = json.loads(connection.recv_bytes())
            except (EOFError, ConnectionError):  # nobody waits any more
                return
            try:
                result = answer(message)
            # A candidate may raise whatever it likes: it is what the coordinator wants to know.
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"}
            with contextlib.suppress(ConnectionError):
                connection.send_bytes(json.dumps(result).encode())
            if "error" in result:
                return
