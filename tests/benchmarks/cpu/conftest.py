"""A result of the CPU benchmark, as it is on disk."""

from __future__ import annotations

import pytest

CANDIDATES = ("onnxruntime-cpu fp32", "openvino fp32", "openvino bf16", "openvino int8")


COST = {
    "image_size": 256,
    "parameters": 5.6e6,
    "multiply_adds": {"Conv": 7.0e9, "MatMul": 3.5e8},
    "graph_bytes": 22.5e6,
}


def row(name: str, p50: float, **more):
    return {
        "name": name,
        "calls": 200,
        "p50_ms": p50,
        "p99_ms": 1.2 * p50,
        "max_ms": 2 * p50,
        "peak_memory_mb": 151.2,
        "error": "",
        **more,
    }


def rows(*times: float, eager: float | None = None):
    found = [row(name, time) for name, time in zip(CANDIDATES, times, strict=False)]
    return found if eager is None else [row("eager", eager), *found]


@pytest.fixture
def record():
    stage = {"input_ms": 0.1, "networks_ms": 9.4, "tail_ms": 0.4, "layout_ms": 0.1}
    machine = {"cpu": "A CPU", "threads": 2, "versions": {"onnxruntime": "1", "openvino": "2", "torch": "3"}}
    found = {
        "methods": [
            {"method": "stpm", "backbone": "resnet18", "rows": rows(20, 18, 10, 8, eager=40), **COST},
            # INT8 was refused; BF16 could not run.
            {
                "method": "dskd",
                "backbone": "resnet18",
                "rows": [*rows(30, 25, eager=60), {**row("openvino bf16", 0.0), "p50_ms": None, "error": "no BF16"}],
            },
        ],
        "stages": {"stages": [{"backend": "onnxruntime-cpu", **stage}, {"backend": "openvino int8", **stage}]},
        "sizes": [{"side": side, "rows": rows(20, 18, 10, 8)} for side in (128, 256)],
        "batches": [{"batch": batch, "rows": rows(20, 18, 10, 8)} for batch in (1, 8)],
        "threads": [{"threads": threads, "rows": rows(20, 18, 10, 8, eager=40)} for threads in (1, 2)],
        "taps": [{"taps": taps, "rows": rows(20, 18)} for taps in ("layer1", "layer1,layer2")],
        "steady": {**row("openvino int8", 8.0), "growth_calls": [2000, 20000], "peak_memory_mb_after": [200.0, 200.5]},
        "cold": [
            {
                "name": "openvino int8",
                "first_ms": 1500.0,
                "cached_ms": 400.0,
                "golden_images": 8,
                "golden_ms": 120.0,
            }
        ],
        "shared": {
            "bundles": 8,
            "memory": {"separate": {"pss_mb": 500.0}, "shared": {"pss_mb": 400.0}},
            "latency": [{"students": 2, "separate": {"p50_ms": 40.0}, "shared": {"p50_ms": 30.0}, "speed_up": 1.33}],
        },
    }
    return {"machine": machine, "found": found}
