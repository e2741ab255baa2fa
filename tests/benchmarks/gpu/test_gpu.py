"""``benchmarks/gpu``: what it does first, what it survives, and that it runs, on the CPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import jobs as gpu_jobs
from benchmarks.gpu import machine as gpu_machine
from benchmarks.gpu import run as gpu
from benchmarks.gpu import table as gpu_table
from benchmarks.gpu.candidates import EAGER, EVENTS, Candidate
from benchmarks.gpu.jobs import KERNELS, RESTART, Deadline, plan, run_jobs
from benchmarks.gpu.store import FAILED, NOT_RUN, OK, Store, row_of
from benchmarks.gpu.timing import Counts, summary
from kdx.bundle.bundle import Golden
from kdx.imaging.images import InputSpec
from kdx.runtime.backend import Outputs

SIDE = 4
METHODS = ["stpm", "dual"]
RECORD = {
    "machine": {"gpu": "NVIDIA H200", "cpu": "a CPU", "nvidia_smi": {"driver_version": "580.1"}, "versions": {}},
    "settings": {"runs": 1000},
    "backends": {"fast-fp16": "here", "tensorrt-rtx-fp16": "TensorRT for RTX does not serve 9.0"},
}


class FakeClock:
    """Seconds pass when something says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeBackend:
    """Answers as the reference does, or worse; says how long it takes."""

    def __init__(self, name: str, log: list[Any], ms: float, *, error: float, raises: str) -> None:
        self.name, self.log, self.ms, self.error, self.raises = name, log, ms, error, raises

    def run(self, images: np.ndarray) -> Outputs:
        if self.raises == "run":
            raise RuntimeError("an illegal memory access")
        self.log.append((self.name, "run", len(images)))
        maps, scores = _reference(images)
        return Outputs(maps * (1 + self.error), scores * (1 + self.error))

    def compute_only(self, shape: tuple[int, ...], runs: int) -> list[float]:
        if self.raises == "compute":
            raise RuntimeError("lost in the middle")
        self.log.append((self.name, "compute", runs))
        return [self.ms * shape[0]] * runs

    def timed_run(self, images: np.ndarray) -> tuple[Outputs, tuple[float, float, float]]:
        return self.run(images), (0.01, self.ms, 0.02)

    def close(self) -> None:
        self.log.append((self.name, "close", 0))


def _reference(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps = images.astype(np.float32).mean(axis=-1)
    return maps, maps.max(axis=(1, 2))[:, None]


def make_model(method: str) -> Any:
    images = np.random.default_rng(0).integers(0, 255, (8, SIDE, SIDE, 3), np.uint8)
    golden = Golden([f"{i}.png" for i in range(8)], images, *_reference(images))
    spec = InputSpec(height=SIDE, width=SIDE)
    return SimpleNamespace(method=method, golden=golden, detector=SimpleNamespace(input_spec=spec))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "gpu-fake.json", {"schema": 1})


@pytest.fixture
def fake(clock: FakeClock, log: list[Any]) -> Callable[..., Candidate]:
    """Makes a candidate; loading it takes ``seconds``."""

    def make(name: str, ms: float = 1.0, *, seconds: float = 5.0, error: float = 0.0, raises: str = "") -> Candidate:
        def load(model: Any, batch: int) -> FakeBackend:
            log.append((name, "open", batch))
            clock.now += seconds
            if raises == "open":
                raise ImportError("libnvinfer.so.10: cannot open shared object file")
            return FakeBackend(name, log, ms, error=error, raises=raises)

        return Candidate(name, name.rsplit("-", 1)[0], name.rsplit("-", 1)[1], EVENTS, seconds, load)

    return make


def run(candidates: list[Candidate], store: Store, clock: FakeClock, *, left: float = 1e6, **options: Any) -> bool:
    jobs = plan(options.pop("methods", ["stpm"]), candidates, options.pop("batches", (1,)))
    return run_jobs(jobs, candidates, make_model, store, Deadline(clock.now + left, clock), runs=20, **options)


def statuses(store: Store) -> dict[str, str]:
    return {"/".join(map(str, key)): row["status"] for key, row in store.rows.items()}


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
    assert row["stages"]["h2d"]["p50_ms"] == 0.01
    assert row["stages"]["d2h"]["p50_ms"] == 0.02
    assert row["end_to_end"]["runs"] == 20
    assert (row["eager_ms"], row["ratio"], row["images_per_second"]) == (2.0, 8.0, 4000.0)
    assert Store.open(store.path).rows == store.rows
    assert [entry for entry in log if entry[1] == "close"] == [(EAGER, "close", 0), ("fast-fp16", "close", 0)]


def test_a_later_job_times_the_baseline_again_and_leaves_its_row(fake, store: Store, clock: FakeClock, log) -> None:
    eager = fake(EAGER, 2.0)
    run([eager], store, clock)
    before = dict(store.rows["stpm", 1, EAGER])
    log.clear()
    run([eager, fake("other-fp16", 1.0)], store, clock)
    assert store.rows["stpm", 1, EAGER] == before
    assert store.rows["stpm", 1, "other-fp16"]["ratio"] == 2.0
    assert sum(runs for name, what, runs in log if (name, what) == (EAGER, "compute")) < 40


@pytest.mark.parametrize("raises", ["open", "run", "compute"])
def test_what_one_candidate_raises_is_its_own(fake, store: Store, clock: FakeClock, raises: str) -> None:
    candidates = [fake("bad-fp16", raises=raises), fake(EAGER), fake("good-fp16")]
    assert run(candidates, store, clock)
    assert statuses(store) == {"stpm/1/bad-fp16": NOT_RUN, f"stpm/1/{EAGER}": OK, "stpm/1/good-fp16": OK}
    assert "Error: " in store.rows["stpm", 1, "bad-fp16"]["reason"]


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


def test_it_stops_in_time_and_a_second_call_does_the_rest(fake, store: Store, clock: FakeClock, log) -> None:
    candidates = [fake(EAGER), fake("slow-fp16", seconds=100)]
    assert not run(candidates, store, clock, left=200, methods=METHODS)
    assert statuses(store) == {f"stpm/1/{EAGER}": OK, "stpm/1/slow-fp16": OK, f"dual/1/{EAGER}": OK}
    assert clock.now <= 200
    assert not store.record["complete"]
    skipped = Store.open(store.path).record["skipped"]
    assert skipped == [["dual", 1, "slow-fp16"]]
    log.clear()
    again, why = Store.resume(store.path, {})
    assert not why
    assert run(candidates, again, clock, methods=METHODS)
    assert statuses(again).keys() >= {f"dual/1/{EAGER}", "dual/1/slow-fp16"}
    assert [name for name, what, _ in log if what == "open"] == [EAGER, "slow-fp16"]  # the baseline beside it
    assert again.record["complete"]


def test_what_does_not_fit_makes_room_for_what_does(fake, store: Store, clock: FakeClock) -> None:
    run([fake(EAGER), fake("fast-fp16"), fake("slow-fp16", seconds=1000)], store, clock, left=60)
    assert statuses(store) == {f"stpm/1/{EAGER}": OK, "stpm/1/fast-fp16": OK}
    assert store.record["skipped"] == [("stpm", 1, "slow-fp16")]


@pytest.mark.parametrize("change", [{"machine": "other"}, {"sources": "other"}])
def test_another_machine_or_code_begins_anew_and_keeps_the_old_file(tmp_path: Path, change) -> None:
    path, identity = tmp_path / "gpu-a.json", {"machine": "this", "sources": "these"}
    store, why = Store.resume(path, identity)
    assert not why
    store.put([row_of(("stpm", 1, EAGER), OK)])
    same, why = Store.resume(path, identity)
    assert not why
    assert same.rows == store.rows
    anew, why = Store.resume(path, identity | change)
    assert why == f"another {next(iter(change))}"
    assert not anew.rows
    assert json.loads((tmp_path / "gpu-a.json.old").read_text())["rows"]


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "gpu-a.json"
    path.write_text('{"rows": [')
    store, why = Store.resume(path, {})
    assert "damaged" in why
    assert not store.rows
    assert path.with_name("gpu-a.json.old").is_file()


def test_who_brings_the_process_down_is_named_and_not_tried_again(store: Store, clock: FakeClock) -> None:
    statuses_of_worker = [-11, RESTART, 0]
    store.save()

    def start(seconds: float) -> int:
        if len(statuses_of_worker) == 3:
            store.mark(("stpm", 1, "crash-fp16"))
        return statuses_of_worker.pop(0)

    gpu.watch(start, store, Deadline(1e6, clock))
    rows = Store.open(store.path).rows
    assert "signal 11" in rows["stpm", 1, "crash-fp16"]["reason"]
    assert len(rows) == 1
    assert not statuses_of_worker
    assert store.marked() is None


def test_a_worker_that_never_begins_ends_the_script(store: Store, clock: FakeClock) -> None:
    store.save()
    with pytest.raises(SystemExit, match="status 2"):
        gpu.watch(lambda seconds: 2, store, Deadline(1e6, clock))


def test_a_worker_that_overstays_is_killed() -> None:
    assert gpu.spawn([sys.executable, "-c", "import time; time.sleep(60)"], 0.3) is None
    assert gpu.spawn([sys.executable, "-c", "import os; os.abort()"], 30) == -6


def test_a_device_that_no_longer_answers_asks_for_another_process(fake, store, clock, monkeypatch) -> None:
    monkeypatch.setattr(gpu_jobs, "is_device_well", lambda: False)
    with pytest.raises(SystemExit) as error:
        run([fake("bad-fp16", raises="run"), fake(EAGER)], store, clock)
    assert error.value.code == RESTART
    assert statuses(Store.open(store.path)) == {"stpm/1/bad-fp16": NOT_RUN, f"stpm/1/{EAGER}": OK}


@pytest.mark.parametrize(("difference", "status"), [(1e-6, OK), (1e-2, FAILED), (float("nan"), FAILED)])
def test_the_kernels_are_a_candidate_too(fake, store, clock, difference: float, status: str) -> None:
    found = {"max_difference": difference, "speedup": 1.2, "is_fast_enough": False, "grouped_speedup": None}
    run([fake(EAGER)], store, clock, kernels=lambda model: found)
    row = store.rows["stpm", 1, KERNELS]
    assert row["status"] == status
    assert ("found" in row) == (status == OK)


def test_larger_batches_take_fewer_calls() -> None:
    assert Counts.at(1, 1000) == Counts(1000, 1000, 200)
    assert Counts.at(8, 1000).timed == 300
    assert Counts.at(32, 1000).timed == 200


def test_percentiles_of_a_known_distribution() -> None:
    found = summary(np.arange(1001) / 1000)
    assert found == {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0, "runs": 1001}


def test_nvidia_smi_is_asked_field_by_field_where_it_knows_one_not(monkeypatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\ncase "$1" in *bogus*) exit 2;; esac\necho "NVIDIA H200, [N/A], 1980 MHz"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fields = ("name", "power.limit", "clocks.sm")
    assert gpu_machine.ask_nvidia_smi(fields) == {"name": "NVIDIA H200", "clocks.sm": "1980 MHz"}
    assert gpu_machine.ask_nvidia_smi(("name", "bogus")) == {"name": "NVIDIA H200"}


def timed(method: str, candidate: str, ms: float, batch: int = 1, eager: float | None = 2.0) -> dict[str, Any]:
    times = {"p50_ms": ms, "p99_ms": 2 * ms}
    return row_of(
        (method, batch, candidate), OK, backend=candidate.rsplit("-", 1)[0], precision=candidate.rsplit("-", 1)[1],
        compute=times, end_to_end={"p50_ms": 3 * ms}, eager_ms=eager, ratio=eager and eager / ms,
        images_per_second=batch / ms * 1e3, clocks={"clocks.sm": "1980 MHz"},
    )  # fmt: skip


def test_the_table_has_the_fastest_of_each_method_and_says_what_is_missing() -> None:
    rows = [
        timed("stpm", "torch-fp32", 2.0), timed("stpm", "fast-fp16", 0.2), timed("stpm", "fast-fp16", 1.0, 32),
        timed("dual", "fast-fp16", 0.5, eager=None), row_of(("dual", 1, EAGER), FAILED, "parity: off"),
        row_of(("stpm", 1, KERNELS), OK, found={"speedup": 1.2, "is_fast_enough": False, "grouped_speedup": 1.1}),
    ]  # fmt: skip
    text = "\n".join(gpu_table.gpu_lines(RECORD | {"rows": rows}, {"stpm": "10 (RTX 2080 Ti)"}))
    assert "| stpm | fast | FP16 | 0.200 | 0.400 | 0.600 | 2.000 | 10.0× | 32,000 (32) | 10 (RTX 2080 Ti) |" in text
    assert "| dual | fast | FP16 | 0.500 | 1.000 | 1.500 | – | – | 2,000 (1) |  |" in text
    assert "| torch |" not in text
    assert "stpm reached: 0.200 of 0.25 ms, 10.0 of 8 times eager" in text
    assert "reduced-student not measured" in text
    assert "stpm at batch 32 reached: 32,000 of 20,000 images/s" in text
    assert "stpm 1.20 times; 1.5 are required: not reached, so there is no `--tail fused`" in text
    assert "tensorrt-rtx-fp16 (TensorRT for RTX does not serve 9.0)" in text
    assert "torch-fp32 failed for dual at batch 1 (parity: off)" in text
    assert "SM clock 1980 MHz" in text
    every = "\n".join(gpu_table.gpu_lines(RECORD | {"rows": rows}, {}, every=True))
    assert "| stpm | torch | FP32 |" in every


def test_without_results_the_table_says_so(tmp_path: Path) -> None:
    text = gpu_table.gpu_text(tmp_path, {})
    assert text.startswith("No GPU has run this yet")
    assert "stpm 0.25" in text
    (tmp_path / "gpu-a.json").write_text(json.dumps(RECORD | {"rows": [timed("stpm", "fast-fp16", 0.2)]}))
    assert "| stpm | fast |" in gpu_table.gpu_text(tmp_path, {})


def test_it_runs_on_the_cpu(tmp_path: Path, dataset: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "gpu-cpu.json"
    options = [
        str(dataset), "--device", "cpu", "--methods", "stpm", "--backbone", "test_resnet", "--size", "32", "--runs",
        "4", "--batches", "1,2", "--backends", "onnxruntime-cuda", "--work", str(tmp_path), "--out", str(out),
    ]  # fmt: skip

    def here(command: list[str], seconds: float) -> int:
        with pytest.raises(SystemExit) as ended:
            gpu.main([*command[3:], "--worker", str(seconds)])
        return ended.value.code

    monkeypatch.setattr(gpu, "spawn", here)
    gpu.main(options)
    store = Store.open(out)
    names = {EAGER, "onnxruntime-cuda-fp16", "onnxruntime-cuda-fp32"}
    assert store.rows.keys() == {("stpm", batch, name) for batch in (1, 2) for name in names}
    assert set(statuses(store).values()) == {OK}
    for row in store.rows.values():
        assert row["stages"].keys() == {"h2d", "compute", "d2h"}
        assert row["ratio"] > 0
    assert store.record["complete"]
    before = out.stat().st_size
    gpu.main(options)  # nothing is missing
    assert Store.open(out).rows == store.rows
    assert out.stat().st_size > before  # the second call is on record
    assert "| stpm | onnxruntime-cuda | FP32 |" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "machine", lambda: {"gpu": None})
    with pytest.raises(SystemExit, match="no NVIDIA GPU"):
        gpu.main(["--out", str(tmp_path / "gpu-x.json")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--methods", "--backends"])
def test_unknown_names_are_refused(option: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nonsense"):
        gpu.main(
            [option, "nonsense", "--device", "cpu", "--work", str(tmp_path), "--out", str(tmp_path / "gpu-x.json")]
        )
