"""What the GPU benchmark does first, and what it survives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.gpu import jobs as gpu_jobs
from benchmarks.gpu.candidates import EAGER
from benchmarks.gpu.jobs import KERNELS, RESTART, Deadline, plan, run_jobs
from benchmarks.gpu.result_store import FAILED, NOT_RUN, OK, Store
from tests.benchmarks.gpu.fakes import METHODS, FakeClock, make_model, run, statuses


def test_the_baseline_and_the_best_backend_of_every_method_come_first(fake) -> None:
    absent = replace(fake("missing-fp16"), absent="not installed")
    candidates = [absent, fake("fast-fp16"), fake(EAGER), fake("slow-fp16", seconds=60), fake("plain-fp16")]
    jobs = plan(["zebra", *METHODS], candidates)
    assert [(job.method, job.batch, job.candidates) for job in jobs[:4]] == [
        ("stpm", 1, (EAGER, "fast-fp16")),
        ("stpm", 32, (EAGER, "fast-fp16")),
        ("stpm", 8, (EAGER, "fast-fp16")),
        ("dual", 1, (EAGER, "fast-fp16")),
    ]
    keys = [key for job in jobs for key in job.keys]
    assert len(set(keys)) == len(keys) == 3 * (3 * 4 + 1)  # methods × (batches × candidates, and the kernels)
    assert jobs[-1].candidates == ("slow-fp16",)
    assert not any("missing-fp16" in job.candidates for job in jobs)


def test_candidates_take_turns_and_their_rows_say_all(fake, store: Store, clock: FakeClock, log) -> None:
    assert run([fake("fast-fp16", 0.25), fake(EAGER, 2.0)], store, clock)
    turns = [name for name, what, runs in log if what == "compute" and runs == 2]  # a tenth of 20 calls
    assert turns[:4] == [EAGER, "fast-fp16", EAGER, "fast-fp16"]
    assert len(turns) == 20
    row = store.rows["stpm", 1, "fast-fp16"]
    assert row["status"] == OK
    assert row["parity"]["passed"]
    assert row["compute"] == {"p50_ms": 0.25, "p99_ms": 0.25, "p999_ms": 0.25, "max_ms": 0.25, "runs": 20}
    assert row["warm_up"] == 20
    assert row["end_to_end"]["runs"] == 20
    assert (row["eager_ms"], row["ratio"], row["images_per_second"]) == (2.0, 8.0, 4000.0)
    assert Store.load(store.path).rows == store.rows
    assert [entry for entry in log if entry[1] == "close"] == [(EAGER, "close", 0), ("fast-fp16", "close", 0)]


@pytest.mark.slow
def test_a_later_job_times_the_baseline_again_and_leaves_its_row(fake, store: Store, clock: FakeClock, log) -> None:
    eager = fake(EAGER, 2.0)
    run([eager], store, clock)
    before = dict(store.rows["stpm", 1, EAGER])
    log.clear()
    run([eager, fake("other-fp16", 1.0)], store, clock)
    assert store.rows["stpm", 1, EAGER] == before
    assert store.rows["stpm", 1, "other-fp16"]["ratio"] == 2.0
    assert sum(runs for name, what, runs in log if (name, what) == (EAGER, "compute")) < 40


@pytest.mark.slow
@pytest.mark.parametrize("raises", ["open", "run", "compute"])
def test_what_one_candidate_raises_is_its_own(fake, store: Store, clock: FakeClock, raises: str) -> None:
    candidates = [fake("bad-fp16", raises=raises), fake(EAGER), fake("good-fp16")]
    assert run(candidates, store, clock)
    assert statuses(store) == {"stpm/1/bad-fp16": NOT_RUN, f"stpm/1/{EAGER}": OK, "stpm/1/good-fp16": OK}
    assert "Error: " in store.rows["stpm", 1, "bad-fp16"]["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_who_fails_parity_is_not_timed(fake, store: Store, clock: FakeClock, log, batch: int) -> None:
    run([fake("off-fp32", error=1e-3), fake("off-fp16", error=1e-3), fake(EAGER)], store, clock, batches=(batch,))
    row = store.rows["stpm", batch, "off-fp32"]
    assert row["status"] == FAILED
    assert "parity: scores differ by 0.001" in row["reason"]
    assert "compute" not in row
    assert not any(name == "off-fp32" and what == "compute" for name, what, _ in log)
    assert {count for name, what, count in log if what == "run"} == {batch}  # no shape but the timed one is built
    assert store.rows["stpm", batch, "off-fp16"]["status"] == OK  # FP16's tolerances


def test_a_method_that_cannot_be_built_costs_its_rows_alone(fake, store: Store, clock: FakeClock) -> None:
    def make(method: str) -> Any:
        if method == "stpm":
            raise ImportError("No module named 'timm'")
        return make_model(method)

    jobs = plan(METHODS, [fake(EAGER)], (1,))
    run_jobs(jobs, [fake(EAGER)], make, store, Deadline(1e6, clock), runs=20)
    assert statuses(store) == {f"stpm/1/{EAGER}": NOT_RUN, f"dual/1/{EAGER}": OK}
    assert "No module named 'timm'" in store.rows["stpm", 1, EAGER]["reason"]


@pytest.mark.slow
def test_it_stops_in_time_and_a_second_call_does_the_rest(fake, store: Store, clock: FakeClock, log) -> None:
    candidates = [fake(EAGER), fake("slow-fp16", seconds=100)]
    assert not run(candidates, store, clock, left=200, methods=METHODS)
    assert statuses(store) == {f"stpm/1/{EAGER}": OK, "stpm/1/slow-fp16": OK, f"dual/1/{EAGER}": OK}
    assert clock.now <= 200
    assert not store.found["complete"]
    skipped = Store.load(store.path).found["skipped"]
    assert skipped == [["dual", 1, "slow-fp16"]]
    log.clear()
    again = Store.resume("gpu", {}, {}, path=store.path)
    assert not again.replaced
    assert run(candidates, again, clock, methods=METHODS)
    assert statuses(again).keys() >= {f"dual/1/{EAGER}", "dual/1/slow-fp16"}
    assert [name for name, what, _ in log if what == "open"] == [EAGER, "slow-fp16"]  # the baseline beside it
    assert again.found["complete"]


def test_what_does_not_fit_makes_room_for_what_does(fake, store: Store, clock: FakeClock) -> None:
    run([fake(EAGER), fake("fast-fp16"), fake("slow-fp16", seconds=1000)], store, clock, left=60)
    assert statuses(store) == {f"stpm/1/{EAGER}": OK, "stpm/1/fast-fp16": OK}
    assert store.found["skipped"] == [("stpm", 1, "slow-fp16")]


def test_a_device_that_no_longer_answers_asks_for_another_process(fake, store, clock, monkeypatch) -> None:
    monkeypatch.setattr(gpu_jobs, "is_device_well", lambda: False)
    with pytest.raises(SystemExit) as error:
        run([fake("bad-fp16", raises="run"), fake(EAGER)], store, clock)
    assert error.value.code == RESTART
    assert statuses(Store.load(store.path)) == {"stpm/1/bad-fp16": NOT_RUN, f"stpm/1/{EAGER}": OK}


@pytest.mark.slow
@pytest.mark.parametrize(("difference", "status"), [(1e-6, OK), (1e-2, FAILED), (float("nan"), FAILED)])
def test_the_kernels_are_a_candidate_too(fake, store, clock, difference: float, status: str) -> None:
    found = {"max_difference": difference, "speedup": 1.2, "is_fast_enough": False, "grouped_speedup": None}
    run([fake(EAGER)], store, clock, kernels=lambda model: found)
    row = store.rows["stpm", 1, KERNELS]
    assert row["status"] == status
    assert ("found" in row) == (status == OK)
