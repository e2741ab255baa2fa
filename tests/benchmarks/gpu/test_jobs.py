"""What the GPU benchmark does first, and what it survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.candidates import COMPARED_FIRST, EAGER, KERNELS, LEAD, find_candidates
from benchmarks.gpu.jobs import COMPACT, fitting, plan
from benchmarks.gpu.result_store import COMPARED, FAILED, NOT_RUN, OK, Store
from tests.benchmarks.gpu.fakes import METHODS, FakeClock, FakeGpu, make_store, statuses


def test_the_order_of_work() -> None:
    candidates = [replace(each, absent="") for each in find_candidates("cuda")]
    jobs = plan(["zebra", "dual-det", COMPACT, "stpm"], candidates, (1, 8, 32))
    ordered = ("stpm", "dual-det", COMPACT, "zebra")
    compared = [(name, 1, COMPARED_FIRST, False) for name in ordered]
    timed = [(name, 1, LEAD, True) for name in ordered[:3]]
    batches = [(name, batch, LEAD, True) for name in ("stpm", COMPACT) for batch in (8, 32)]
    begin = [*compared, *timed, *batches, ("zebra", 1, LEAD, True), ("stpm", 1, (KERNELS,), True)]
    assert [(job.method, job.batch, job.candidates, job.timed) for job in jobs[: len(begin)]] == begin
    keys = [key for job in jobs if job.timed for key in job.keys]
    # methods × (batches × candidates, and the kernels)
    assert len(set(keys)) == len(keys) == 4 * (3 * (len(candidates) - 1) + 1)
    slow = {"tensorrt-fp32", "onnxruntime-tensorrt-fp32", "onnxruntime-tensorrt-fp16"}
    assert {job.candidates for job in jobs[-3 * 2 * 4 :]} == {(name,) for name in slow}


def test_absent_candidates_have_no_jobs(gpu: FakeGpu) -> None:
    absent = replace(gpu.candidate("tensorrt-fp16"), absent="not installed")
    jobs = plan(["stpm"], [absent, gpu.candidate(EAGER)], (1,))
    assert [job.candidates for job in jobs] == [(EAGER,), (EAGER,)]


def test_all_of_a_method_load_at_once_and_then_take_turns(gpu: FakeGpu, store: Store, log) -> None:
    fast = gpu.candidate("tensorrt-rtx-fp16", 0.25)
    assert gpu.run([fast, gpu.candidate(EAGER, 2.0)], store)
    begin = [(EAGER, "start", 0), (EAGER, "open", 1), ("", "quiet", 0), (EAGER, "open", 1), (fast.name, "start", 0)]
    begun = [entry for entry in log if entry[1] != "loaded"]
    assert begun[: len(begin) + 1] == [*begin, (fast.name, "open", 1)]
    turns = [name for name, what, calls in log if what == "turn" and calls]
    assert turns[:4] == [EAGER, fast.name, EAGER, fast.name]
    row = store.rows["stpm", 1, fast.name]
    assert (row["status"], row["clock"], row["warm_up"]) == (OK, "CUDA events", 20)
    assert row["compute"] == {"p50_ms": 0.25, "p99_ms": 0.25, "p999_ms": 0.25, "max_ms": 0.25, "runs": 20}
    assert row["end_to_end"]["runs"] == 20
    assert (row["eager_ms"], row["ratio"], row["images_per_second"]) == (2.0, 8.0, 4000.0)
    assert store.rows["stpm", 1, EAGER]["compute"]["runs"] == 4  # a fifth
    assert Store.load(store.path).rows == store.rows
    assert {entry[0] for entry in log if entry[1] == "close"} == {EAGER, fast.name}


def test_what_times_its_kernels_loads_alone(gpu: FakeGpu, store: Store, log) -> None:
    names = [EAGER, "torch-compile-fp16", "tensorrt-fp16", "tensorrt-fp32", "onnxruntime-tensorrt-fp16"]
    for name in names[2:]:
        log.clear()
        gpu.run([gpu.candidate(each) for each in (EAGER, name)], store)
        orders = [entry[:2] for entry in log if entry[1] in {"open", "loaded"}]
        assert orders[-4:] == [(name, "open"), (name, "loaded"), (EAGER, "open"), (EAGER, "loaded")]
    # So the times that they load add up.
    candidates = {name: gpu.candidate(name, seconds=100) for name in names}
    empty, keys = make_store(store.path), [("stpm", 1, name) for name in names]
    assert fitting(keys, 300.0, candidates, empty) == keys[:3]  # two times 100 s, and 10 s each to be timed
    assert fitting(keys, 450.0, candidates, empty) == keys


@pytest.mark.parametrize("fault", ["open", "parity"])
def test_the_baseline_is_not_timed_for_nothing(gpu: FakeGpu, store: Store, log, fault: str) -> None:
    eager = gpu.candidate(EAGER)
    gpu.run([eager], store)
    log.clear()
    gpu.run([eager, gpu.candidate("bad-fp16", fault=fault)], store)
    assert (EAGER, "open", 1) in log
    assert not [entry for entry in log if entry[1] == "turn"]
    assert store.rows["stpm", 1, "bad-fp16"]["status"] in {NOT_RUN, FAILED}


def test_a_later_job_times_the_baseline_again_and_leaves_its_row(gpu: FakeGpu, store: Store, log) -> None:
    eager = gpu.candidate(EAGER, 2.0)
    gpu.run([eager], store)
    before = dict(store.rows["stpm", 1, EAGER])
    gpu.run([eager, gpu.candidate("other-fp16", 1.0)], store)
    assert store.rows["stpm", 1, EAGER] == before
    assert store.rows["stpm", 1, "other-fp16"]["ratio"] == 2.0


@pytest.mark.parametrize("fault", ["open", "turn"])
def test_a_process_that_dies_costs_its_own_row(gpu: FakeGpu, store: Store, log, fault: str) -> None:
    bad = gpu.candidate("bad-fp16", fault=fault)
    assert gpu.run([bad, gpu.candidate(EAGER), gpu.candidate("good-fp16")], store, batches=(1, 8))
    assert statuses(store) == {
        f"stpm/{batch}/{name}": NOT_RUN if name == bad.name else OK
        for batch in (1, 8)
        for name in (EAGER, bad.name, "good-fp16")
    }
    assert "SIGSEGV" in store.rows["stpm", 1, bad.name]["reason"]
    assert [what for name, what, _ in log if name == bad.name and what in {"start", "close"}] == ["start", "close"] * 2


def test_what_fails_parity_is_not_timed(gpu: FakeGpu, store: Store, log) -> None:
    gpu.run([gpu.candidate("off-fp16", fault="parity"), gpu.candidate(EAGER)], store)
    row = store.rows["stpm", 1, "off-fp16"]
    assert (row["status"], row["reason"]) == (FAILED, "parity: scores differ by 0.001")
    assert "compute" not in row
    assert not [entry for entry in log if entry[:2] == ("off-fp16", "turn")]


def test_a_method_that_cannot_be_built_costs_its_rows_alone(gpu: FakeGpu, store: Store) -> None:
    gpu.run([gpu.candidate(EAGER)], store, methods=tuple(METHODS), unbuilt="stpm")
    assert statuses(store) == {f"stpm/1/{EAGER}": NOT_RUN, f"dual/1/{EAGER}": OK}
    assert "No module named 'timm'" in store.rows["stpm", 1, EAGER]["reason"]


def test_it_stops_in_time_and_a_second_call_does_the_rest(gpu: FakeGpu, store: Store, log) -> None:
    candidates = [gpu.candidate(EAGER), gpu.candidate("slow-fp16", seconds=100)]
    assert not gpu.run(candidates, store, left=200, methods=tuple(METHODS))
    assert statuses(store) == {f"stpm/1/{EAGER}": OK, f"dual/1/{EAGER}": OK, "stpm/1/slow-fp16": OK}
    assert gpu.clock.now <= 200
    found = Store.load(store.path).found
    assert (found["skipped"], found["complete"]) == ([["dual", 1, "slow-fp16"]], False)
    log.clear()
    again = Store.resume("gpu", {}, {}, path=store.path)
    assert not again.replaced
    assert gpu.run(candidates, again, methods=tuple(METHODS))
    assert [name for name, what, _ in log if what == "open"] == [EAGER, "slow-fp16"]  # the baseline beside it
    assert again.found["complete"]


def test_what_does_not_fit_makes_room_for_what_does(gpu: FakeGpu, store: Store) -> None:
    slow = gpu.candidate("tensorrt-fp16", seconds=1000)
    gpu.run([gpu.candidate(EAGER), slow, gpu.candidate("fast-fp16")], store, left=90)
    assert statuses(store) == {f"stpm/1/{EAGER}": OK, "stpm/1/fast-fp16": OK}
    assert store.found["skipped"] == [("stpm", 1, slow.name)]


def test_without_time_everything_is_listed_once(gpu: FakeGpu, store: Store) -> None:
    assert not gpu.run([gpu.candidate(EAGER)], store, left=1)
    assert (store.rows, store.found["skipped"]) == ({}, [("stpm", 1, EAGER)])  # compared and timed


def test_where_time_runs_out_nothing_is_said_of_what_was_cut_short(gpu: FakeGpu, store: Store) -> None:
    slow = gpu.candidate("torch-compile-fp16", seconds=60)
    gpu.run([gpu.candidate(EAGER, seconds=40), slow], store, left=120)
    assert statuses(store) == {f"stpm/1/{EAGER}": COMPARED}
    assert store.found["skipped"] == [("stpm", 1, EAGER), ("stpm", 1, slow.name)]


@pytest.mark.parametrize(("fault", "status"), [("", OK), ("parity", FAILED), ("kernels", NOT_RUN)])
def test_the_kernels_are_a_candidate_too(gpu: FakeGpu, store: Store, fault: str, status: str) -> None:
    gpu.run([gpu.candidate(EAGER), gpu.candidate(KERNELS, fault=fault)], store)
    row = store.rows["stpm", 1, KERNELS]
    assert row["status"] == status
    assert row.get("found", {}).get("speedup") == (None if fault == "kernels" else 1.2)


# A run that kills itself in the middle of writing its file for the nth time.
KILLED = """
import os, signal, sys
from pathlib import Path
from types import ModuleType
from benchmarks import results
sys.modules["tests"] = ModuleType("tests")  # some packages install one of theirs
sys.modules["tests"].__path__ = ["tests"]
from tests.benchmarks.gpu.fakes import FakeClock, FakeGpu, make_store

path, last = Path(sys.argv[1]), int(sys.argv[2])
write, written = results.write_atomic, []

def write_atomic(target, content):
    written.append(target)
    if len(written) == last:
        target.with_name(f".{target.name}.part").write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(target, content)

results.write_atomic = write_atomic
gpu = FakeGpu(FakeClock(), [])
gpu.run([gpu.candidate("torch-fp32"), gpu.candidate("fast-fp16")], make_store(path), methods=("stpm", "dual"))
"""


@pytest.mark.parametrize(
    ("writes", "rows", "shown"),
    [
        (2, [("stpm", COMPARED)], []),
        (4, [("stpm", OK), ("dual", COMPARED)], ["stpm"]),
        (6, [("stpm", OK), ("dual", OK), ("stpm", OK)], ["dual", "stpm", "stpm"]),
    ],
)
def test_a_kill_at_any_moment_leaves_valid_json_with_a_table(
    tmp_path: Path, writes: int, rows: list[Any], shown: list[str]
) -> None:
    path = tmp_path / "gpu-x.json"
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", KILLED, str(path), str(writes)]
    done = subprocess.run(command, cwd=root, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == -signal.SIGKILL, done.stderr
    record = json.loads(path.read_text(encoding="utf-8"))
    assert [(row["method"], row["status"]) for row in record["found"]["rows"]] == rows
    assert record["table"][0].startswith("| method | backend |")
    assert [line.split()[1] for line in record["table"][2:] if line.startswith("| ")] == shown
    # A second call goes on.
    again, gpu = Store(path, record), FakeGpu(FakeClock(), [])
    candidates = [gpu.candidate(EAGER), gpu.candidate("fast-fp16")]
    assert gpu.run(candidates, again, methods=("stpm", "dual"))
    assert set(statuses(again).values()) == {OK}
    assert len(again.rows) == 4
