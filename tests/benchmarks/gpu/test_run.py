"""The GPU benchmark as a command: that it runs, on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu import run as gpu
from benchmarks.gpu.candidates import EAGER
from benchmarks.gpu.jobs import COMPACT
from benchmarks.gpu.result_store import OK, Store
from kdx.bundle.open import open_bundle
from tests.benchmarks.gpu.fakes import statuses


@pytest.mark.slow
def test_it_runs_on_the_cpu(tmp_path: Path, dataset: Path, capsys) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "gpu-cpu.json"
    options = [
        str(dataset), "--device", "cpu", "--methods", COMPACT, "--size", "32", "--runs", "4", "--batches", "1,2",
        "--backends", "onnxruntime-cuda", "--work", str(tmp_path), "--out", str(out), "--minutes", "60",
    ]  # fmt: skip
    gpu.main(options)
    store = Store.load(out)
    names = {EAGER, "onnxruntime-cuda-fp16", "onnxruntime-cuda-fp32"}
    assert store.rows.keys() == {(COMPACT, batch, name) for batch in (1, 2) for name in names}
    assert set(statuses(store).values()) == {OK}
    assert all(row["ratio"] > 0 for row in store.rows.values())
    assert store.found["complete"]
    (weights,) = open_bundle(next(tmp_path.glob(f"*/{COMPACT}.kdx"))).manifest.provenance.border_weights
    assert 0 < min(weights) < max(weights) == 1
    before = out.stat().st_size
    gpu.main(options)  # nothing is missing
    assert Store.load(out).rows == store.rows
    assert out.stat().st_size > before  # the second call is on record
    assert "| compact-m | onnxruntime-cuda | FP32 |" in capsys.readouterr().out


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
