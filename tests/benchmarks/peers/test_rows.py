"""A row for each runtime and export of anomalib's models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import rows as peers_rows
from benchmarks.peers.rows import Setup


def test_anomalibs_rows_say_what_was_asked_of_the_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    exports = {name: {"path": name} for name in ("torch", "onnx", "onnx-fixed", "openvino", "fixed")}
    exports["int8"] = {"error": "ModuleNotFoundError: nncf"}

    def rows(own: str) -> list[tuple[str, str, bool, Any]]:
        monkeypatch.setattr(peers_rows, "openvino_precision", lambda: own)
        return [
            (one.runs_in, one.precision, one.asked, one.candidate.arguments["precision"] if one.candidate else "error")
            for one in peers_rows.anomalib_rows("stpm", {"exports": exports})
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
    setup = Setup(tmp_path, tmp_path, threads=1)
    rows = peers_rows.anomalib_rows("padim", peers_rows.export_peer(setup, "padim"))
    assert rows
    assert all("anomalib is not installed" in one.error and one.candidate is None for one in rows)
