"""Every backend and precision that runs a detector on a CPU."""

from __future__ import annotations

BACKEND_PRECISION_PAIRS = [
    ("onnxruntime-cpu", "fp32"),
    ("onnxruntime-cpu", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
    ("openvino-throughput", "fp32"),
    ("openvino-throughput", "int8"),
    ("torch", "fp32"),
]
