"""One process at a time trains in a run folder, and a process that ends frees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import kd_train.training.train
from kd_train.training.run_lock import RunLock
from kd_train.training.train import train
from kdx.errors import OutputError
from tests.tiny_training import TINY

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
REFUSAL = "another process trains in"
HOLD = """
import sys, time
from pathlib import Path
from kd_train.training.run_lock import RunLock
with RunLock() as lock:
    lock.take(Path(sys.argv[1]))
    print("locked", flush=True)
    time.sleep(600)
"""


class During:
    """Shows nothing, and acts once while a training runs."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.todo = [act]

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[During]:
        if description == "training" and self.todo:
            self.todo.pop()()
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("first", [{}, {"force": True}, {"resume": True}])
@pytest.mark.parametrize("second", [{}, {"force": True}, {"resume": True}])
def test_a_second_training_is_refused_and_touches_nothing(dataset, run_copy, tmp_path, first, second):
    out = run_copy if first else tmp_path / "new"
    seen = []

    def train_too() -> None:
        before = content_of(out)
        with pytest.raises(OutputError, match=REFUSAL):
            train(dataset, out, replace(TINY, epochs=3, **second))
        assert content_of(out) == before
        seen.append(before)

    history = train(dataset, out, replace(TINY, epochs=2, **first), During(train_too)).history
    assert len(history) == 2
    assert seen
    train(dataset, out, replace(TINY, force=True))  # the training ended, and its lock with it


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"force": True}, {"resume": True}])
def test_a_run_that_another_process_began_meanwhile_is_kept(dataset, run_copy, tmp_path, monkeypatch, options):
    out, fuse = tmp_path / "new", kd_train.training.train.fuse
    other = RunLock()

    def begin_elsewhere(*arguments: object) -> object:
        run_copy.rename(out)
        other.take(out)
        return fuse(*arguments)

    monkeypatch.setattr(kd_train.training.train, "fuse", begin_elsewhere)
    with other, pytest.raises(OutputError, match=REFUSAL):
        train(dataset, out, replace(TINY, **options))
    assert (out / "last.json").is_file()


def test_a_killed_process_frees_the_folder_and_leaves_no_file(run_copy):
    before = content_of(run_copy)
    with subprocess.Popen([sys.executable, "-c", HOLD, run_copy], stdout=subprocess.PIPE, encoding="utf-8") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        with RunLock() as lock, pytest.raises(OutputError, match=REFUSAL):
            lock.take(run_copy)
        os.kill(child.pid, signal.SIGKILL)
    with RunLock() as lock:
        lock.take(run_copy)
        lock.take(run_copy)  # held already
    assert content_of(run_copy) == before
