"""The GPU benchmark as a command: that it runs, on the CPU, and outlives its worker."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.gpu import run as gpu
from benchmarks.gpu.candidates import EAGER
from benchmarks.gpu.jobs import RESTART, Deadline
from benchmarks.gpu.result_store import OK, Store
from tests.benchmarks.gpu.fakes import FakeClock, statuses


def test_who_brings_the_process_down_is_named_and_not_tried_again(store: Store, clock: FakeClock) -> None:
    statuses_of_worker = [-11, RESTART, 0]
    store.save()

    def start(seconds: float) -> int:
        if len(statuses_of_worker) == 3:
            store.mark(("stpm", 1, "crash-fp16"))
        return statuses_of_worker.pop(0)

    gpu.watch(start, store, Deadline(1e6, clock))
    rows = Store.load(store.path).rows
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


@pytest.mark.slow
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
    store = Store.load(out)
    names = {EAGER, "onnxruntime-cuda-fp16", "onnxruntime-cuda-fp32"}
    assert store.rows.keys() == {("stpm", batch, name) for batch in (1, 2) for name in names}
    assert set(statuses(store).values()) == {OK}
    assert all(row["ratio"] > 0 for row in store.rows.values())
    assert store.found["complete"]
    before = out.stat().st_size
    gpu.main(options)  # nothing is missing
    assert Store.load(out).rows == store.rows
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
