"""Where a bundle's graph spends its time in ONNX Runtime, by operator.

    python benchmarks/profile_graph.py BUNDLE

Batch 1, as many threads as cores, golden images. Writes ``results/profile_cpu.json``: mean milliseconds a call, and the
multiply-adds of its convolutions.
"""

from __future__ import annotations

import collections
import json
import sys
import tempfile
from pathlib import Path

import onnxruntime as ort
from common import write
from graphs import multiply_adds

from kdx.bundle import open_bundle
from kdx.runtime.latency import usable_cores

WARM_UP, RUNS = 20, 100


def main() -> None:
    """Profile one bundle."""
    bundle = open_bundle(sys.argv[1])
    images = bundle.golden().images
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(bundle.graph), options, providers=["CPUExecutionProvider"])
        for index in range(WARM_UP + RUNS):
            session.run(None, {"image": images[index % len(images)][None]})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("kernel_time")]
    kernels = kernels[len(kernels) * WARM_UP // (WARM_UP + RUNS) :]
    by_operator: collections.Counter[str] = collections.Counter()
    for event in kernels:
        by_operator[event["args"]["op_name"]] += event["dur"] / 1e3 / RUNS
    record = {
        "method": bundle.manifest.method,
        "backbone": bundle.manifest.provenance.backbone,
        "input": bundle.manifest.input.describe(),
        "threads": usable_cores(),
        "onnxruntime": ort.__version__,
        "multiply_adds": multiply_adds(bundle.graph)["Conv"],
        "total_ms": round(sum(by_operator.values()), 3),
        "operators_ms": {name: round(value, 3) for name, value in by_operator.most_common()},
    }
    write("profile_cpu.json", record)


if __name__ == "__main__":
    main()
