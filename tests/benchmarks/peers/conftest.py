"""A result of the peers benchmark, as it is on disk."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.peers.rows import ANOMALIB, EAGER, KDX

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 2, "versions": {"anomalib": "2.7.0", "openvino": "2026.4"}}
SETTINGS = {"size": 256, "batch": 1, "fitted_on_images": 100}


def row(system: str, runs_in: str, precision: str, p50: float | None, **changes: Any) -> dict[str, Any]:
    title = {KDX: "stpm", EAGER: "stpm", ANOMALIB: "STFPM"}[system]
    figures = {"p99_ms": None, "load_ms": None, "peak_memory_mb": None}
    if p50 is not None:
        figures = {"p99_ms": 1.5 * p50, "load_ms": 1234.0, "peak_memory_mb": 321.4}
    facts = {"method": "stpm", "calls": 200, "asked": True, "gated": True if system == KDX else None, "error": ""}
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
    return {"machine": MACHINE, "settings": SETTINGS, "found": {"models": models, "rows": rows}}
