"""The GPU benchmark as a table and in words."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.candidates import EAGER, KERNELS
from benchmarks.gpu.result_store import COMPARED, FAILED, OK, row_of
from benchmarks.gpu.table import gpu_lines, gpu_table

RECORD = {
    "machine": {"gpu": "NVIDIA H200", "cpu": "a CPU", "nvidia_smi": {"driver_version": "580.1"}, "versions": {}},
    "settings": {"runs": 1000},
}
BACKENDS = {"fast-fp16": "here", "tensorrt-rtx-fp16": "TensorRT for RTX does not serve 9.0"}


def with_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {**RECORD, "found": {"backends": BACKENDS, "rows": rows}}


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
        row_of(("zebra", 1, EAGER), COMPARED),
        timed("dual", "fast-fp16", 0.5, eager=None), row_of(("dual", 1, EAGER), FAILED, "parity: off"),
        row_of(("stpm", 1, KERNELS), OK, found={"speedup": 1.2, "is_fast_enough": False, "grouped_speedup": 1.1}),
    ]  # fmt: skip
    text = "\n".join(gpu_lines(with_rows(rows)))
    assert (
        "| stpm | fast | FP16 | 0.200 | 0.400 | 0.600 | 2.000 | 10.0× | 32,000 (32) | 10 (RTX 2080 Ti); 12 (anomalib) |"
        in text
    )
    assert "| dual | fast | FP16 | 0.500 | 1.000 | 1.500 | – | – | 2,000 (1) |  |" in text
    assert "| torch |" not in text
    assert "stpm 1.20 times; 1.5 are required: not reached, so there is no `--tail fused`" in text
    assert "tensorrt-rtx-fp16 (TensorRT for RTX does not serve 9.0)" in text
    assert "torch-fp32 failed for dual at batch 1 (parity: off)" in text
    assert "SM clock 1980 MHz" in text
    every = "\n".join(gpu_lines(with_rows(rows), every=True))
    assert "| stpm | torch | FP32 |" in every


def test_without_results_the_table_says_so() -> None:
    text = "\n".join(gpu_table([]))
    assert text.startswith("No GPU has run this yet")
    assert "| stpm | fast |" in "\n".join(gpu_table([with_rows([timed("stpm", "fast-fp16", 0.2)])]))
