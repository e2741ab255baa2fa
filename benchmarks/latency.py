"""STPM at 256²: the fused graph against eager PyTorch, with the teachers of the paper and of the demo.

    python benchmarks/latency.py DATA

DATA is any folder that ``kdx train`` takes. The teachers have random weights and the students one epoch: latency does
not depend on either. Writes ``results/latency_cpu.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import kdx, write

BACKBONES = {"resnet18": "layer1,layer2,layer3", "tf_efficientnet_lite0": "blocks.2,blocks.4,blocks.5"}


def main() -> None:
    """Train for one epoch, export, and time, once for each backbone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", default="300")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for backbone, taps in BACKBONES.items():
            run, bundle = Path(folder) / backbone, Path(folder) / f"{backbone}.kdx"
            kdx(
                "train", arguments.data, "--backbone", backbone, "--taps", taps, "--weights", "random", "--out", run,
                "--epochs", "1", "--image-size", "256", "--train-fraction", "0.05", "--channels", "3", "--sigma", "4",
                "--learning-rate", "0.01",
            )  # fmt: skip
            kdx("export", run, "-o", bundle, "--input-size", "256x256")
            results.append(kdx("bench", bundle, "--baseline", run, "--runs", arguments.runs))
    write("latency_cpu.json", {"matrix_product_gflops": matrix_product_gflops(), "bundles": results})


def matrix_product_gflops(size: int = 2048, repeats: int = 15) -> float:
    """Return what this machine's cores reach in a large FP32 matrix product: the ceiling of any FP32 convolution."""
    a, b = (np.random.default_rng(seed).random((size, size), dtype=np.float32) for seed in (0, 1))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        _ = a @ b
        times.append(time.perf_counter() - started)
    return round(2 * size**3 / float(np.median(times)) / 1e9, 1)


if __name__ == "__main__":
    main()
