"""Children of one process that has imported everything: a command in a child imports nothing.

What a child had to import all the same, the parent imports when the child has ended.

Threads do not survive a fork, and a library whose threads are gone waits for them for ever. So the
parent loads libraries and never a network; and nobody waits for a child longer than a limit.
"""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

# What commands import, late: the parent does it once. A large parent takes long to fork: what needs
# no torch has none.
_LIGHT = (
    "onnxruntime",
    "scipy.stats",
    "kdx.cli.app",
    "kd_export.engine.build",
    "kdx.verification.judge",
    "kdx.verification.certificate",
    "kdx.calibration.threshold",
    "kd_train.datasets",
)
_HEAVY = (
    "onnx",
    "torch.onnx",
    "kd_export.bundle_export",
    "kd_train.training.trained_pair",
    "kd_train.methods.stpm",
    "kd_train.training.train",
)
_HEAVY_COMMANDS = {"export", "train"}
# What the parent imports later: no package that ``setups.py`` replaces.
_IMPORTED_LATER = ("kdx.", "kd_train.", "kd_export.", "PIL.", "pydantic", "rich.", "scipy.", "typer.")
_SINGLE = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        signal: What ended it from outside, or 0.
        value: What its work returned, through JSON; None where it returned nothing.
        error: What its work raised, as a traceback; empty for nothing.
        seconds: How long it took.
    """

    signal: int
    value: Any
    error: str
    seconds: float


class Child:
    """A piece of work in a child of this process, which is under way once this exists.

    Args:
        work: Returns what JSON can hold.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._started = time.perf_counter()
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            _answer(work, write)
        os.close(write)

    def kill(self) -> None:
        """End it, as a power switch would."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float) -> None:
        """Wait until it has answered, and no longer than that."""
        select.select([self._read], [], [], max(seconds, 0.0))

    def result(self, limit_s: float = 300.0) -> Ended:
        """Wait for its end; it is killed after ``limit_s``, which counts as an error."""
        parts, late = [], False
        while True:
            left = self._started + limit_s - time.perf_counter()
            if not late and not select.select([self._read], [], [], max(left, 0.0))[0]:
                late = True
                self.kill()
            part = os.read(self._read, 1 << 16)
            if not part:
                break
            parts.append(part)
        os.close(self._read)
        _, status = os.waitpid(self.pid, 0)
        seconds = time.perf_counter() - self._started
        if late:
            return Ended(signal.SIGKILL, None, f"not finished after {limit_s:g} s", seconds)
        if os.WIFSIGNALED(status):
            return Ended(os.WTERMSIG(status), None, "", seconds)
        answer = json.loads(b"".join(parts) or '{"error": "ended without an answer"}')
        for name in answer.get("imported", ()):
            import_module(name)
        return Ended(0, answer.get("value"), answer.get("error", ""), seconds)


def in_child(work: Callable[[], Any], limit_s: float = 300.0) -> Any:
    """Return what work returns in a child; raise ``RuntimeError`` with its traceback."""
    ended = Child(work).result(limit_s)
    if ended.error or ended.signal:
        raise RuntimeError(ended.error or f"ended by signal {ended.signal}")
    return ended.value


def prepare_process(commands: Collection[str]) -> None:
    """Import what commands need. Call it first: libraries read the thread counts when they load."""
    os.environ.update(dict.fromkeys(_SINGLE, "1"))
    for name in _LIGHT:
        import_module(name)
    if _HEAVY_COMMANDS.intersection(commands):
        for name in _HEAVY:
            import_module(name)
        import_module("kd_train.models.torch_vision").import_timm()
    # A garbage collection in a child would write to every object, and so copy this process.
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


def run_command(arguments: Sequence[object]) -> dict[str, Any]:
    """Run a ``kdx`` command in this process; return its exit status and what it printed."""
    from kdx.cli import output
    from kdx.cli.app import app

    texts = io.StringIO(), io.StringIO()
    output.out.file, output.err.file = texts
    output.out.width = output.err.width = 10_000
    before, sys.stdout = sys.stdout, texts[0]
    try:
        app([str(each) for each in arguments])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    else:
        status = 0
    finally:
        sys.stdout = before
    return {"status": status, "stdout": texts[0].getvalue(), "stderr": texts[1].getvalue()}


def _answer(work: Callable[[], Any], pipe: int) -> None:
    """Work, answer, and leave without Python's clean-up, which would flush the parent's buffers."""
    before = set(sys.modules)
    try:
        value = work()
        imported = [name for name in sys.modules if name not in before and name.startswith(_IMPORTED_LATER)]
        answer = {"value": value, "imported": imported}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    data = json.dumps(answer).encode()
    while data:
        data = data[os.write(pipe, data) :]
    os._exit(0)
