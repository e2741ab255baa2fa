"""``benchmarks/timing/turns.py``: the order of calls, and candidates that fail; no timing."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from benchmarks.timing import turns
from benchmarks.timing.turns import Candidate, Timed, time_in_turns

# Loaders as candidates have them. Each writes down its process, and "NAME first-pixel" at every
# call.
TOYS = """
import os, sys, time
from pathlib import Path

FOLDER = Path(__file__).parent

def make(arguments):
    name = arguments["name"]
    (FOLDER / f"{name}.pid").write_text(str(os.getpid()))
    (FOLDER / f"{name}.env").write_text(f"{os.environ['OMP_NUM_THREADS']} {arguments['threads']}")
    calls = 0
    def predict(images):
        nonlocal calls
        calls += 1
        with (FOLDER / "log").open("a") as log:
            log.write(f"{name} {images.dtype} {images.shape} {images[0, 0, 0, 0]} {images.flags.owndata}\\n")
        misbehave(arguments.get("fault"), calls)
        return images.reshape(len(images), -1).mean(axis=1)
    return predict

def misbehave(fault, calls):
    if fault == "noise":
        print("a library's banner", flush=True)
        os.write(1, b"\\x00\\xff{}\\n")
    if calls < 3:
        return
    if fault == "raise":
        raise ValueError("no such\\nlayer")
    if fault == "die":
        print("out of memory", file=sys.stderr, flush=True)
        os.abort()
    if fault == "exit":
        sys.exit(3)
    if fault == "hang":
        time.sleep(600)

def broken(arguments):
    raise RuntimeError("no weights")
"""


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "toys.py").write_text(TOYS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(turns, "PAUSE_S", 0.0)
    yield tmp_path
    left = [file.stem for file in tmp_path.glob("*.pid") if _lives(int(file.read_text(encoding="utf-8")))]
    assert not left, "workers outlived the coordinator"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def toy(name: str, fault: str | None = None) -> Candidate:
    return Candidate(name, "toys:make", {"name": name, "fault": fault})


def images(count: int = 3) -> np.ndarray:
    """Image ``i`` is ``i`` all over."""
    return np.stack([np.full((2, 4, 3), index, np.uint8) for index in range(count)])


def test_turns_alternate_and_every_call_is_made(toys: Path) -> None:
    rows = time_in_turns([toy("a"), toy("b")], images(), threads=1, runs=7, rounds=3, warm_up=2)
    assert [(row.name, row.calls, row.error) for row in rows] == [("a", 7, ""), ("b", 7, "")]
    names = [line.split()[0] for line in (toys / "log").read_text(encoding="utf-8").splitlines()]
    in_turns = [(name, len(list(group))) for name, group in groupby(names)]
    settle = turns.SETTLE
    # Load and warm up; then forwards, backwards, forwards: what meets at a turning point is one
    # group of two.
    first, last = 3 + settle, 1 + settle
    assert in_turns == [("a", 3), ("b", 3), ("a", first), ("b", 2 * first), ("a", first + last), ("b", last)]


def test_rows_hold_figures(toys: Path) -> None:
    (row,) = time_in_turns([toy("a")], images() + 5, threads=1, runs=4, rounds=2)
    assert row.score == 5.0
    assert row.p50_ms is not None
    assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms <= row.max_ms  # type: ignore[operator]
    assert row.load_ms is not None
    assert row.load_ms > 0
    assert row.peak_memory_mb is not None
    assert 5 < row.peak_memory_mb < 1000 or math.isnan(row.peak_memory_mb)


def test_images_come_as_from_a_camera(toys: Path) -> None:
    time_in_turns([toy("a")], images(), threads=1, runs=2, rounds=1, warm_up=0, batch=2)
    lines = [line.split(maxsplit=1)[1] for line in (toys / "log").read_text(encoding="utf-8").splitlines()]
    # Batches of two from three images, each in memory of its own.
    assert lines == [f"uint8 (2, 2, 4, 3) {first} True" for first in [0, 2, 1] * 2]


def test_threads_are_said_to_everyone(toys: Path) -> None:
    time_in_turns([toy("a")], images(), threads=3, runs=1, rounds=1)
    assert (toys / "a.env").read_text(encoding="utf-8") == "3 3"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", "ValueError: no such layer"),
        ("die", "the worker died (killed by SIGABRT): out of memory"),
        ("exit", "the worker died (exit status 3)"),
        ("hang", "no answer within 10 s"),
    ],
)
def test_one_that_fails_is_a_row_and_the_rest_continues(toys: Path, fault: str, reason: str) -> None:
    candidates = [toy("a"), toy("bad", fault), toy("b")]
    limit_s = 10 if fault == "hang" else 120  # a busy machine may take seconds to start a process
    rows = time_in_turns(candidates, images(), threads=1, runs=4, rounds=2, warm_up=1, limit_s=limit_s)
    assert rows[1] == Timed("bad", error=rows[1].error)
    assert rows[1].error.startswith(reason)
    assert [(row.name, row.calls, row.error) for row in rows[::2]] == [("a", 4, ""), ("b", 4, "")]


def test_one_that_cannot_be_loaded_is_a_row(toys: Path) -> None:
    candidates = [
        Candidate("broken", "toys:broken"),
        Candidate("absent", "no_such_module:make"),
        toy("a"),
    ]
    rows = time_in_turns(candidates, images(), threads=1, runs=2, rounds=1)
    assert rows[0].error == "RuntimeError: no weights"
    assert rows[1].error.startswith("ModuleNotFoundError")
    assert (rows[2].calls, rows[2].error) == (2, "")


def test_noise_on_stdout_breaks_nothing(toys: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (row,) = time_in_turns([toy("a", "noise")], images(), threads=1, runs=3, rounds=1)
    assert (row.calls, row.error) == (3, "")
    assert "banner" not in capfd.readouterr().out


def test_ctrl_c_ends_all_workers(toys: Path) -> None:
    pids: list[int] = []

    def interrupt(line: str) -> None:
        if line == "round 2":
            pids.extend(int(file.read_text(encoding="utf-8")) for file in toys.glob("*.pid"))
            assert all(map(_lives, pids))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        time_in_turns([toy("a"), toy("b")], images(), threads=1, runs=4, rounds=4, say=interrupt)
    assert len(pids) == 2
    assert not any(map(_lives, pids))


def test_a_worker_ends_when_its_coordinator_is_gone(toys: Path) -> None:
    import subprocess

    script = (
        "import os, numpy as np\n"
        "from benchmarks.timing import turns\n"
        "say = lambda line: os._exit(9) if line == 'round 1' else None\n"
        "candidate = turns.Candidate('a', 'toys:make', {'name': 'a'})\n"
        "turns.time_in_turns([candidate], np.zeros((1, 2, 2, 3), np.uint8), threads=1, say=say)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(toys)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == 9
    pid = int((toys / "a.pid").read_text(encoding="utf-8"))
    deadline = time.monotonic() + 300
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(pid)


def test_the_worker_needs_no_torch(toys: Path) -> None:
    (toys / "lean.py").write_text(
        "import sys\n"
        "def make(arguments):\n"
        "    return lambda images: float('torch' in sys.modules or 'kdx' in sys.modules)\n",
        encoding="utf-8",
    )
    (row,) = time_in_turns([Candidate("lean", "lean:make")], images(), threads=1, runs=1, rounds=1)
    assert row.score == 0.0
