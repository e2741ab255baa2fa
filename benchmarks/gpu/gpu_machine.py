"""The machine of the GPU benchmark. Everything is read, nothing is set."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.commands import ROOT
from benchmarks.results import machine_of
from kdx.runtime.gpu import gpus
from kdx.runtime.machine import usable_cores

PACKAGES = (
    "kdx", "torch", "triton", "timm", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-cu12",
    "tensorrt-cu13", "tensorrt-rtx", "tensorrt-rtx-cu13", "cuda-bindings", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13",
)  # fmt: skip
# The order in which nvidia-smi numbers cards. CUDA begins with the fastest, unless it is told so.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
_FIXED = (
    "name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "clocks.max.mem",
    "clocks.applications.graphics", "persistence_mode", "ecc.mode.current", "mig.mode.current",
)  # fmt: skip
_CHANGING = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "pstate")


def machine() -> dict[str, Any]:
    """Return what does not change while the benchmark runs."""
    gpu = gpus()[0] if gpus() else None
    return {
        "gpu": gpu.name if gpu else None, "compute_capability": gpu.compute_capability if gpu else None,
        "cuda_of_driver": gpu.driver if gpu else None, "nvidia_smi": ask_nvidia_smi(_FIXED),
        **machine_of(usable_cores(), PACKAGES),
    }  # fmt: skip


def clocks() -> dict[str, str]:
    """Return the GPU's clocks, temperature and power now; empty without ``nvidia-smi``."""
    return ask_nvidia_smi(_CHANGING)


def ask_nvidia_smi(fields: tuple[str, ...]) -> dict[str, str]:
    """Return what ``nvidia-smi`` says of the used GPU; fields it does not know are omitted."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "-i", visible or "0"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        # One unknown field fails the whole query.
        return {} if len(fields) == 1 else {k: v for field in fields for k, v in ask_nvidia_smi((field,)).items()}
    values = [value.strip() for value in done.stdout.splitlines()[0].split(",")] if done.stdout.strip() else []
    return {k: v for k, v in zip(fields, values, strict=False) if not re.search(r"N/A|Not Supported", v)}


def sources() -> str:
    """Return a hash over the code that is timed or times, without the results beside it."""
    digest = hashlib.sha256()
    rooms = [ROOT / room for room in ("kdx", "kd_train", "kd_export", "kernels")]
    files = [file for room in rooms for file in room.rglob("*") if file.suffix in {".py", ".toml"}]
    scripts = [file for file in Path(__file__).parent.glob("*.py") if file.name != "table.py"]
    for file in sorted([*files, *scripts]):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
