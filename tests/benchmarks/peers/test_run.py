"""The peers benchmark: what is prepared and measured, without anomalib."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import run
from benchmarks.peers.rows import ANOMALIB, EAGER, Row, Setup, kdx_rows
from benchmarks.timing.turns import Candidate, Timed
from tests.conftest import invoke


def test_rows_that_cannot_run_keep_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Row("patchcore", EAGER, "stpm", "PyTorch", "fp32", candidate=Candidate("loop", "a:b"))
    lame = Row("patchcore", ANOMALIB, "PatchCore", "ONNX Runtime", "fp32", error="it has no export")
    fast = replace(lame, runs_in="OpenVINO", candidate=Candidate("fast", "a:b"), error="")
    setup: Any = SimpleNamespace(threads=1, timed=1, images=lambda count: np.zeros((count, 2, 2, 3), np.uint8))
    timed = [Timed("loop", 20, 8.0, 9.0, 9.5, 10.0, 100.0, 50.0, 0.5), Timed("fast", error="the worker died")]
    asked: list[str] = []

    def in_turns(candidates: Any, images: Any, **options: Any) -> list[Timed]:
        asked.extend(one.name for one in candidates)
        return timed

    monkeypatch.setattr(run, "time_in_turns", in_turns)
    rows = run.measure(setup, "patchcore", [loop, lame, fast], 20)
    assert asked == ["loop", "fast"]
    assert [(one["runs_in"], one["p50_ms"], one["error"]) for one in rows] == [
        ("PyTorch", 8.0, ""),
        ("ONNX Runtime", None, "it has no export"),
        ("OpenVINO", None, "the worker died"),
    ]
    assert {one["eager_ms"] for one in rows} == {8.0}
    assert json.dumps(rows)  # nothing in them that JSON lacks


@pytest.fixture
def commands_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``kdx`` in this process: one of its own imports PyTorch for seconds."""

    def called(command: list[str], **_: Any) -> Any:
        assert command[1:3] == ["-m", "kdx"]
        done = invoke(*command[3:], code=None)
        return SimpleNamespace(returncode=done.exit_code, stdout=done.stdout, stderr=done.stderr)

    monkeypatch.setattr("benchmarks.commands.subprocess", SimpleNamespace(run=called))


@pytest.mark.slow
@pytest.mark.usefixtures("commands_in_process")
def test_kdx_is_prepared_once_and_measured(tmp_path: Path, dataset: Path, capsys: Any) -> None:
    pytest.importorskip("onnxruntime")
    tiny: dict[str, Any] = {"backbone": "test_resnet", "taps": None, "size": 64, "timed": 2, "precisions": "fp32"}
    setup = Setup(dataset, tmp_path, threads=1, **tiny)
    rows = kdx_rows(setup, "stpm")
    assert "$ kdx export" in capsys.readouterr().out
    rows = kdx_rows(setup, "stpm")
    assert "$ kdx" not in capsys.readouterr().out  # kept
    assert rows[0].system == EAGER
    fp32 = next(one for one in rows if (one.runs_in, one.precision) == ("onnxruntime-cpu", "fp32"))
    assert fp32.gated
    found = run.measure(setup, "stpm", [rows[0], fp32], 4)
    assert [(one["calls"], one["error"]) for one in found] == [(4, ""), (4, "")]
    # The same image, the same judgement, from the loop and from the graph.
    assert found[0]["score"] == pytest.approx(found[1]["score"], rel=1e-3)
