"""Latency, size and memory of pairs; no assertion is about time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
from benchmarks.compact import run as compact
from benchmarks.compact.table import family_table

needs_linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux counts memory there")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m benchmarks compact", *map(str, arguments)])
    compact.main()


@needs_linux
@pytest.mark.slow
def test_bundles_that_exist_are_timed_without_training(tiny_bundle, dataset, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KDX_CACHE_DIR", "")
    bundles = [f"--bundle={pair}={tiny_bundle}" for pair in ("first", "second")]
    options = ("--work", tmp_path / "work", "--out", tmp_path / "compact.json", "--runs", 2, "--threads", 1)
    call(monkeypatch, dataset.parent, *options, "--only", "latency", *bundles)
    record = json.loads((tmp_path / "compact.json").read_text())
    family = record["found"]["family"]
    assert record["found"]["rows"] == []
    assert [(row["backend"], row["pair"], row["precision"], row["error"]) for row in family["latency"]] == [
        (backend, pair, "fp32", "") for backend in compact.BACKENDS for pair in ("first", "second")
    ]
    facts = family["pairs"]["first"]
    assert facts["graph_bytes"] == {"fp32": (tiny_bundle / "model.onnx").stat().st_size}
    assert facts["bundle_bytes"] == sum(file.stat().st_size for file in tiny_bundle.rglob("*") if file.is_file())
    assert facts["memory_mb"]["fp32"] > 0
    lines = family_table(record)
    sets = [each["title"] for each in record["data_sets"].values()]
    assert lines[0].endswith(f"| OpenVINO, 1 thread | ONNX Runtime, 1 thread | {' | '.join(sets)} |")
    assert lines[2].startswith("| `first` | FP32 |")
    assert lines[3] == f"| `first` | INT8: none |  |  |  | – | – |{' – |' * len(sets)}"


def test_latency_without_trainings_names_what_is_missing(dataset, tmp_path, monkeypatch) -> None:
    options = ("--work", tmp_path / "work", "--out", tmp_path / "compact.json", "--only", "latency")
    with pytest.raises(SystemExit, match=r"not trained yet: tf_efficientnet_lite0, compact-s, .* --bundle"):
        call(monkeypatch, dataset.parent, *options)
