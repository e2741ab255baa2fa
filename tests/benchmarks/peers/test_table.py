"""The peers benchmark as a table and in words."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.table import peers_table


def test_the_table_shows_every_row_of_our_methods_and_the_fastest_of_the_others(record: dict[str, Any]) -> None:
    lines = peers_table(record)
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
    assert {line.count("|") for line in lines if line.startswith("|")} == {9}


def test_a_variant_that_failed_its_gate_is_not_what_is_compared(record: dict[str, Any]) -> None:
    text = "\n".join(peers_table(record))
    assert "BF16 (not gated)" in text
    assert (
        "STPM / STFPM: kdx, openvino, INT8, is 2.00 times as fast as the fastest of anomalib (anomalib, "
        "OpenVINOInferencer, BF16 as it comes); in FP32 1.10 times." in text
    )


def test_what_did_not_run_is_said(record: dict[str, Any]) -> None:
    text = peers_table(record)[-1]
    assert text == (
        "Did not run: STPM / STFPM, anomalib, TorchInferencer, FP32 (RuntimeError: a / in the way)."
    )  # a bar would break a table


def test_what_openvino_says_of_its_own_sources_is_left_out(record: dict[str, Any]) -> None:
    record["found"]["rows"][6]["error"] = (
        "RuntimeError: Exception from src/infer_request.cpp:75: Exception from src/infer_request.cpp:67: "
        "Check 'shape.compatible' failed at src/request.cpp:385: Can't set the input tensor " + 200 * "x"
    )
    text = peers_table(record)[-1]
    assert "(RuntimeError: Check 'shape.compatible' failed: Can't set the input tensor xxx" in text
    assert text.endswith("…).")


def test_the_machine_and_the_bank_are_said(record: dict[str, Any]) -> None:
    text = "\n".join(peers_table(record))
    assert "2 threads of a CPU (anomalib 2.7.0, openvino 2026.4); 200 calls" in text
    assert "PatchCore's bank: 10,240 patches from 100 images" in text
