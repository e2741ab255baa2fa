"""Commands that are killed wherever they change a file, and what becomes of their bundle.

An audit hook counts what Python does to files, and ends the process by SIGKILL before the n-th such
event, for every n until the command runs through: before a file is opened for writing, flushed,
renamed, exchanged, removed. Random moments come on top, which hit what lies between two events.
After each kill the bundle must be the old one or the new one, whole: every hash, and every score
bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.robustness.tools.children import Child, in_child, run_command
from tests.robustness.tools.setups import call_setup

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGING = {
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "tempfile.mkdtemp",
    "tempfile.mkstemp",
}


@dataclass(frozen=True)
class Job:
    """A command that changes a bundle.

    Attributes:
        name: For the record.
        command: Of ``kdx``; ``{bundle}`` stands for the bundle.
        bundle: The bundle before; it is copied for every kill.
        work: A folder for the copies.
        setup: What to change in each child before the command, see ``setups.py``.
        points: How many events to kill at, spread over all; 0 for every one.
        random: How many kills at random moments.
        repeat: After how many of the kills, spread over all, the command is run again, to its end.
    """

    name: str
    command: list[str]
    bundle: str
    work: str
    setup: list[str] = field(default_factory=list)
    points: int = 0
    random: int = 0
    repeat: int = 0


@dataclass(frozen=True)
class Report:
    """What came of a job's kills.

    Attributes:
        name: The job's.
        events: Changes of files in a run that is not killed.
        kills: How many runs were killed.
        old: After how many kills the bundle was the one before.
        new: After how many it was the complete new one.
        repeated: How many times the command was run again afterwards.
        lost: Everything that went wrong, in words: a bundle that was neither, a command that did
            not run again, something left behind after it had.
    """

    name: str
    events: int
    kills: int
    old: int
    new: int
    repeated: int
    lost: list[str]


class Watch:
    """An audit hook that counts changes of files under a folder, and kills this process at one.

    Args:
        folder: What is watched.
        fatal: Before which change to end, counted from 1; 0 for none.
    """

    def __init__(self, folder: Path, fatal: int = 0) -> None:
        self.count = 0
        self._removing = False
        self._folder, self._fatal = os.path.realpath(folder), fatal
        os.fsync = self._fsync  # no audit event: between a write and its flush lies a file that is half there
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and self._is_watched(path):
                self._step()
        elif event == "ctypes.dlsym":
            if arguments[1] == "renameat2":  # called next
                self._step()
        elif event == "shutil.rmtree":
            self._removing = self._is_watched(arguments[0])
            if self._removing:
                self._step()
        elif event in {"os.remove", "os.rmdir"} and arguments[1] != -1:
            if self._removing:  # by rmtree, which names what is in a folder relative to it
                self._step()
        elif event in _CHANGING and self._is_watched(arguments[0]):
            self._step()

    def _fsync(self, handle: int) -> None:
        if self._is_watched(f"/proc/self/fd/{handle}"):
            self._step()  # the file is not flushed: that matters when the power fails, and not after SIGKILL

    def _is_watched(self, path: object) -> bool:
        return isinstance(path, (str, Path)) and os.path.realpath(path).startswith(self._folder)

    def _step(self) -> None:
        self.count += 1
        if self.count == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def explore(job: Job) -> Report:
    """Kill a command at its changes of files and at random moments; say what was left.

    Raises:
        RuntimeError: The command does not run through when it is let be.
    """
    old = _facts(Path(job.bundle))
    with copied(job.bundle, job.work) as bundle:
        ended = Child(lambda: _run(job, bundle, 0)).result()
        if ended.error or ended.value["status"] not in {0, 1}:
            raise RuntimeError(f"{job.name}: {ended.error or ended.value}")
        events, status, new = ended.value["events"], ended.value["status"], _facts(bundle)
    if new == old:
        raise RuntimeError(f"{job.name} changes nothing: a kill could not be distinguished from a success")
    points = _spread(events, job.points)
    moments = [random.Random(seed).uniform(0.0, ended.seconds) for seed in range(job.random)]
    found, lost = {"old": 0, "new": 0}, []
    repeated = kills = 0
    again = set(_spread(len(points) + len(moments), job.repeat)) if job.repeat else set()
    for index, moment in enumerate([*points, *moments], start=1):
        what = f"{job.name}, " + (f"event {moment} of {events}" if isinstance(moment, int) else f"{moment:.2f} s")
        with copied(job.bundle, job.work) as bundle:
            if not _killed(job, bundle, moment):
                continue  # through before its moment came
            kills += 1
            state = _state(bundle, old, new)
            if state not in found:
                lost.append(f"{what}: {state}")
                continue
            found[state] += 1
            if index in again:
                repeated += 1
                lost += [f"{what}, again: {fault}" for fault in _again(job, bundle, status, new)]
    return Report(job.name, events, kills, found["old"], found["new"], repeated, lost)


def _killed(job: Job, bundle: Path, moment: int | float) -> bool:
    """Run the command and kill it; return whether it was still running."""
    at_event = isinstance(moment, int)
    child = Child(lambda: _run(job, bundle, moment if at_event else 0))
    if not at_event:
        child.wait(moment)
        child.kill()
    return child.result().signal == signal.SIGKILL


def _run(job: Job, bundle: Path, fatal: int) -> dict[str, Any]:
    for setup in job.setup:
        call_setup(setup)
    watch = Watch(bundle.parent, fatal)
    result = run_command([each.format(bundle=bundle) for each in job.command])
    return {**result, "events": watch.count}


def _state(bundle: Path, old: Any, new: Any) -> str:
    """Return ``old`` or ``new``, or what is wrong with the bundle."""
    ended = Child(lambda: facts_of(bundle)).result()
    if ended.error or ended.signal:
        return ended.error.strip().splitlines()[-1] if ended.error else f"signal {ended.signal} while it was loaded"
    if ended.value == old:
        return "old"
    return "new" if ended.value == new else f"neither the old bundle nor the new: {ended.value}"


def _again(job: Job, bundle: Path, status: int, new: Any) -> Iterator[str]:
    """Run the command again, to its end, and yield what is wrong then."""
    ended = Child(lambda: _run(job, bundle, 0)).result()
    if ended.error or ended.signal or ended.value["status"] != status:
        yield str(ended.error or ended.value or f"signal {ended.signal}")
    elif (facts := _facts(bundle)) != new:
        yield f"another bundle: {facts}"
    left = [str(path.relative_to(bundle.parent)) for path in bundle.parent.rglob(".*")]
    if left:
        yield f"left behind: {', '.join(left)}"


def _facts(bundle: Path) -> Any:
    return in_child(lambda: facts_of(bundle))


def facts_of(bundle: Path) -> dict[str, Any]:
    """Open a bundle with hashes and engines, judge its golden images, and return all of it."""
    import kdx
    from kdx.bundle.engine_record import engines_of
    from kdx.bundle.open import open_bundle

    opened = open_bundle(bundle)
    manifest = opened.manifest
    thresholds = {"fp32": manifest.threshold}
    for precision, by_runtime in manifest.runtime_thresholds.items():
        thresholds.update({f"{precision} in {runtime}": one for runtime, one in by_runtime.items()})
    unreadable: dict[str, str] = {}
    engines = list(engines_of(bundle, unreadable))
    if unreadable:
        raise RuntimeError(f"engines that cannot be read: {unreadable}")
    for engine in engines:
        engine.read_plan()
    with kdx.load(bundle, backend="onnxruntime-cpu", threads=1) as detector:
        verdicts = detector.batch(opened.golden().images)
    judged = [(v.decision.value, v.score.hex(), hashlib.sha256(v.anomaly_map.tobytes()).hexdigest()) for v in verdicts]
    return {
        "thresholds": {name: one and [one.score, one.false_reject_rate, one.pixel] for name, one in thresholds.items()},
        "verdicts": [list(one) for one in judged],
        "engines": {engine.path.name: [engine.record.level, engine.record.batches] for engine in engines},
        "max_batch": manifest.max_batch,
    }


@contextmanager
def copied(bundle: str, work: str) -> Iterator[Path]:
    """Give a copy of a bundle, alone in a folder, for as long as the block lasts."""
    folder = Path(tempfile.mkdtemp(dir=work))
    try:
        yield Path(shutil.copytree(bundle, folder / "tile.kdx"))
    finally:
        shutil.rmtree(folder)


def _spread(count: int, wanted: int) -> list[int]:
    """Return numbers from 1 to ``count``, evenly spread with both ends; 0 means all of them."""
    if not wanted or wanted >= count:
        return list(range(1, count + 1))
    return sorted({1 + round(index * (count - 1) / max(wanted - 1, 1)) for index in range(wanted)})
