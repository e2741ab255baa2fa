"""What these tests share. ``benchmarks/robustness`` runs the same tools for longer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tool(tmp_path_factory) -> Callable[[str, object], Any]:
    """Run one of the tools in a process of its own, and return what it prints."""

    def run(name: str, job: object) -> Any:
        file = tmp_path_factory.mktemp("job") / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", name, str(file)],
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=300,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def every_precision(tiny_bundle, tmp_path_factory) -> Path:
    """A bundle with BF16 and an INT8 graph, whatever their gate would say of so small a network."""
    import msgspec
    import onnx

    from kd_export.precision.quantize import quantize
    from kdx.bundle.open import open_bundle
    from kdx.bundle.variants import Variant
    from kdx.storage.files import sha256_file

    bundle = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("every") / "tile.kdx"))
    opened = open_bundle(bundle)
    graph = bundle / "model.int8.onnx"
    onnx.save(quantize(onnx.load(opened.graph.path), opened.golden().images), graph)
    variants = {
        "bf16": Variant(file="model.onnx", convolutions=1, kept=[]),
        "int8": Variant(file=graph.name, convolutions=1, kept=[]),
    }
    files = {**opened.manifest.files, graph.name: sha256_file(graph)}
    changed = msgspec.structs.replace(opened.manifest, variants=variants, files=files)
    (bundle / "bundle.json").write_bytes(msgspec.json.encode(changed))
    return bundle


@pytest.fixture
def load(every_precision, tiny_run) -> Callable[[str, str], Any]:
    """Load a bundle, or for ``torch`` a run, on a backend; skip where this machine has none."""
    import kdx
    from kdx.runtime.backend_table import find_backend

    def open_one(backend: str, precision: str = "fp32") -> Any:
        if backend == "torch":
            return kdx.load(tiny_run, threads=1)
        info = find_backend(backend)
        if not info.is_installed():
            pytest.skip(f"{backend} is not installed: {info.install}")
        if not info.offers(precision):
            pytest.skip(f"this machine computes no {precision}")
        return kdx.load(every_precision, backend=backend, threads=1, precision=precision)

    return open_one
