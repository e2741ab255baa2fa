"""``benchmarks/peers``: its rows, its table and its plot, without anomalib; and its models, with it."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.peers import anomalib_exports as peers_models
from benchmarks.peers import loaders as peers_loaders
from benchmarks.peers import rows as peers_rows
from benchmarks.peers import run as peers
from benchmarks.peers import table as peers_table
from benchmarks.peers.rows import ANOMALIB, EAGER, KDX, Row, Setup
from benchmarks.timing.turns import Candidate, Timed

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 2, "versions": {"anomalib": "2.7.0", "openvino": "2026.4"}}
SETTINGS = {"size": 256, "batch": 1, "runs": 200, "fitted_on_images": 100}


def row(system: str, runs_in: str, precision: str, p50: float | None, **changes: Any) -> dict[str, Any]:
    title = {KDX: "stpm", EAGER: "stpm", ANOMALIB: "STFPM"}[system]
    figures = {"p99_ms": None, "load_ms": None, "peak_memory_mb": None}
    if p50 is not None:
        figures = {"p99_ms": 1.5 * p50, "load_ms": 1234.0, "peak_memory_mb": 321.4}
    facts = {"method": "stpm", "asked": True, "gated": True if system == KDX else None, "error": ""}
    named = {"system": system, "title": title, "runs_in": runs_in, "precision": precision}
    return {**facts, **named, "p50_ms": p50, "eager_ms": 60.0, **figures, **changes}


@pytest.fixture
def record() -> dict[str, Any]:
    rows = [
        row(EAGER, "PyTorch", "fp32", 60.0),
        row(KDX, "onnxruntime-cpu", "fp32", 40.0),
        row(KDX, "openvino", "int8", 10.0),
        row(KDX, "openvino", "bf16", 5.0, gated=False),
        row(ANOMALIB, "OpenVINOInferencer", "bf16", 20.0, asked=False),
        row(ANOMALIB, "OpenVINOInferencer", "fp32", 44.0),
        row(ANOMALIB, "TorchInferencer", "fp32", None, error="RuntimeError: a | in the way"),
        row(EAGER, "PyTorch", "fp32", 66.0, method="patchcore"),
        row(ANOMALIB, "OpenVINOInferencer", "fp32", 90.0, method="patchcore", title="PatchCore", eager_ms=66.0),
        row(ANOMALIB, "TorchInferencer", "fp32", 99.0, method="patchcore", title="PatchCore", eager_ms=66.0),
    ]
    models = {"PatchCore": {"memory_bank": [10240, 384]}}
    return {"machine": MACHINE, "settings": SETTINGS, "models": models, "rows": rows}


def test_the_table_shows_every_row_of_our_methods_and_the_fastest_of_the_others(record: dict[str, Any]) -> None:
    lines = peers_table.peers_lines(record)
    table = [line for line in lines if line.startswith("| ")][1:]
    assert [line.split(" | ")[1] for line in table] == [
        "kdx, openvino",
        "kdx, openvino",
        "anomalib, OpenVINOInferencer",
        "kdx, onnxruntime-cpu",
        "anomalib, OpenVINOInferencer",
        "eager loop",
        "anomalib, OpenVINOInferencer",
    ]
    assert table[1] == "| STPM / STFPM | kdx, openvino | INT8 | 10.0 | 15.0 | 1.2 | 321 | 6.00× |"
    assert "| BF16 as it comes |" in table[2]
    # Against the loop of its own rounds, which has no line there.
    assert table[-1].endswith("| 0.73× |")
    every = peers_table.peers_lines(record, every=True)
    assert len(every) == len(lines) + 1
    assert {line.count("|") for line in every if line.startswith("|")} == {9}


def test_a_variant_that_failed_its_gate_is_not_what_is_compared(record: dict[str, Any]) -> None:
    text = "\n".join(peers_table.peers_lines(record))
    assert "BF16 (not gated)" in text
    assert (
        "STPM / STFPM: kdx, openvino, INT8, is 2.00 times as fast as the fastest of anomalib (anomalib, "
        "OpenVINOInferencer, BF16 as it comes); in FP32 1.10 times." in text
    )


def test_what_did_not_run_is_said(record: dict[str, Any]) -> None:
    text = peers_table.peers_lines(record)[-1]
    assert text == (
        "Did not run: STPM / STFPM, anomalib, TorchInferencer, FP32 (RuntimeError: a / in the way)."
    )  # a bar would break a table


def test_what_openvino_says_of_its_own_sources_is_left_out(record: dict[str, Any]) -> None:
    record["rows"][6]["error"] = (
        "RuntimeError: Exception from src/infer_request.cpp:75: Exception from src/infer_request.cpp:67: "
        "Check 'shape.compatible' failed at src/request.cpp:385: Can't set the input tensor " + 200 * "x"
    )
    text = peers_table.peers_lines(record)[-1]
    assert "(RuntimeError: Check 'shape.compatible' failed: Can't set the input tensor xxx" in text
    assert text.endswith("…).")


def test_of_other_methods_the_fastest_in_each_runtime_is_drawn() -> None:
    rows = [{"runs_in": name} for name in ("OpenVINO, fixed", "ONNX Runtime", "OpenVINO")]
    assert peers_table.fastest_of_each_runtime(rows) == rows[:2]


def test_the_machine_and_the_bank_are_said(record: dict[str, Any]) -> None:
    text = "\n".join(peers_table.peers_lines(record))
    assert "2 threads of a CPU (anomalib 2.7.0, openvino 2026.4); 200 calls" in text
    assert "PatchCore's bank: 10,240 patches from 100 images" in text


def test_without_results_the_table_says_so(tmp_path: Path, record: dict[str, Any]) -> None:
    file = tmp_path / "peers.json"
    assert peers_table.peers_table(file).startswith("Not measured yet")
    file.write_text(json.dumps(record), encoding="utf-8")
    assert "| kdx, openvino | INT8 |" in peers_table.peers_table(file)


def test_every_method_has_a_title() -> None:
    assert {method: peers_table.title_of(method) for method in peers_models.PEERS}.keys() == peers_table._TITLES.keys()


def test_the_plot_is_a_white_png_and_an_svg(tmp_path: Path, record: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    peers.plot(record, tmp_path / "peers")
    with Image.open(tmp_path / "peers.png") as image:
        image.load()
        assert image.format == "PNG"
        assert 800 <= image.width <= 1000
        assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert "<svg" in (tmp_path / "peers.svg").read_text(encoding="utf-8")


def test_a_plot_of_failures_alone_is_no_failure(tmp_path: Path, record: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    record["rows"] = [one for one in record["rows"] if one["error"]]
    peers.plot(record, tmp_path / "peers")
    assert (tmp_path / "peers.png").stat().st_size > 0


def test_rows_of_other_methods_are_kept_if_nothing_changed(tmp_path: Path, record: dict[str, Any], capsys: Any) -> None:
    file = tmp_path / "peers.json"
    file.write_text(json.dumps(record), encoding="utf-8")
    fresh = {**copy.deepcopy(record), "rows": [], "models": {}}
    peers.keep_rows(fresh, file, ["stpm"])
    assert {one["method"] for one in fresh["rows"]} == {"patchcore"}
    assert fresh["models"] == record["models"]
    other = {**fresh, "settings": {**SETTINGS, "runs": 20}, "rows": [], "models": {}}
    peers.keep_rows(other, file, ["stpm"])
    assert other["rows"] == []
    assert "is not kept" in capsys.readouterr().out


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

    monkeypatch.setattr(peers, "time_in_turns", in_turns)
    rows = peers.measure(setup, "patchcore", [loop, lame, fast], 20)
    assert asked == ["loop", "fast"]
    assert [(one["runs_in"], one["p50_ms"], one["error"]) for one in rows] == [
        ("PyTorch", 8.0, ""),
        ("ONNX Runtime", None, "it has no export"),
        ("OpenVINO", None, "the worker died"),
    ]
    assert {one["eager_ms"] for one in rows} == {8.0}
    assert json.dumps(rows)  # nothing in them that JSON lacks


def test_anomalibs_rows_say_what_was_asked_of_the_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exports = {name: {"path": name} for name in ("torch", "onnx", "onnx-fixed", "openvino", "fixed")}
    exports["int8"] = {"error": "ModuleNotFoundError: nncf"}
    (tmp_path / "exports.json").write_text(json.dumps({"settings": {}, "exports": exports}), encoding="utf-8")
    setup = Setup(tmp_path, tmp_path, threads=2)

    def rows(own: str) -> list[tuple[str, str, bool, Any]]:
        monkeypatch.setattr(peers_rows, "openvino_precision", lambda: own)
        return [
            (one.runs_in, one.precision, one.asked, one.candidate.arguments["precision"] if one.candidate else "error")
            for one in peers_rows.anomalib_rows(setup, "stpm", tmp_path)
        ]

    assert rows("bf16")[3:] == [
        ("OpenVINOInferencer", "bf16", False, None),
        ("OpenVINOInferencer", "fp32", True, "f32"),
        ("OpenVINOInferencer, batch fixed", "bf16", False, None),
        ("OpenVINOInferencer, batch fixed", "int8", True, "error"),
    ]
    # A CPU without BF16: as it comes is FP32, once.
    assert [(precision, hint) for _, precision, _, hint in rows("fp32")[3:5]] == [("fp32", None), ("fp32", None)]


def test_without_anomalib_its_rows_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_rows, "find_spec", lambda name: None)
    rows = peers_rows.anomalib_rows(Setup(tmp_path, tmp_path, threads=1), "padim", None)
    assert rows
    assert all("anomalib is not installed" in one.error and one.candidate is None for one in rows)


def test_exports_get_floats_as_anomalib_makes_them() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3), np.uint8)
    floats = peers_loaders.as_floats(images)
    assert floats.shape == (1, 3, 4, 5)
    assert floats.dtype == np.float32
    assert floats.flags.c_contiguous
    np.testing.assert_allclose(floats[0, 2, 1, 3] * 255, images[0, 1, 3, 2], rtol=1e-6)


@pytest.mark.slow
def test_kdx_is_prepared_once_and_measured(tmp_path: Path, dataset: Path, capsys: Any) -> None:
    pytest.importorskip("onnxruntime")
    tiny: dict[str, Any] = {"backbone": "test_resnet", "taps": None, "size": 64, "timed": 2, "precisions": ("fp32",)}
    setup = Setup(dataset, tmp_path, threads=1, **tiny)
    folder = peers_rows.prepare_kdx(setup, "stpm")
    assert "$ kdx export" in capsys.readouterr().out
    assert peers_rows.prepare_kdx(setup, "stpm") == folder
    assert "$ kdx" not in capsys.readouterr().out  # kept
    rows = peers_rows.kdx_rows(setup, "stpm", folder)
    assert rows[0].system == EAGER
    fp32 = next(one for one in rows if (one.runs_in, one.precision) == ("onnxruntime-cpu", "fp32"))
    assert fp32.gated
    found = peers.measure(setup, "stpm", [rows[0], fp32], 4)
    assert [(one["calls"], one["error"]) for one in found] == [(4, ""), (4, "")]
    # The same image, the same judgement, from the loop and from the graph.
    assert found[0]["score"] == pytest.approx(found[1]["score"], rel=1e-3)


@pytest.mark.slow
def test_anomalib_builds_fits_and_exports(tmp_path: Path) -> None:
    pytest.importorskip("anomalib", reason='anomalib is not installed (pip install -e ".[peers]")')
    torch = pytest.importorskip("torch")
    images = torch.rand(2, 3, 64, 64)
    peer = peers_models.PEERS["patchcore"]
    module = peers_models.build(peer)
    # 2 images of 8 x 8 patches, a tenth of them, and the channels of layer2 and layer3.
    assert peers_models.fit(module, images) == {"fitted_on_images": 2, "memory_bank": [12, 384]}
    peers_models.normalise_scores(module, images)
    with torch.no_grad():
        found = module(images[:1])
    assert 0 < float(found.pred_score.flatten()[0]) < 1  # within, not clamped
