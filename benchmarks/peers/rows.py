"""What the peers benchmark measures: a row for each method, system, runtime and precision."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bundles import CPU_PRECISIONS, BenchmarkModel, Prepared, candidates, prepare_bundle
from benchmarks.commands import environment
from benchmarks.peers.anomalib_exports import PEERS
from benchmarks.timing.turns import Candidate
from kd_train.datasets import open_data
from kdx.folders.data_folder import require_good
from kdx.imaging.images import InputSpec, read_image

KDX, ANOMALIB, EAGER = "kdx", "anomalib", "eager loop"
# The methods that kdx has as well.
KDX_METHODS = ("stpm", "reverse-distillation")
_EXPORTS = "benchmarks.peers.anomalib_exports"
_LOADERS = "benchmarks.peers.loaders"
# Who runs an export of anomalib, which export, and the precision that is asked for; None leaves it
# to the runtime.
_RUNNERS = (
    ("TorchInferencer", "torch", "torch_inferencer", "fp32"),
    ("ONNX Runtime", "onnx", "onnxruntime_session", "fp32"),
    ("ONNX Runtime, batch fixed", "onnx-fixed", "onnxruntime_session", "fp32"),
    ("OpenVINOInferencer", "openvino", "openvino_inferencer", None),
    ("OpenVINOInferencer", "openvino", "openvino_inferencer", "fp32"),
    ("OpenVINOInferencer, batch fixed", "fixed", "openvino_inferencer", None),
    ("OpenVINOInferencer, batch fixed", "int8", "openvino_inferencer", "int8"),
)


@dataclass(frozen=True)
class Setup:
    """What everything is prepared from.

    Attributes:
        backbone: The teacher of kdx; that of anomalib is ResNet-18.
        taps: The taps of kdx; None for its own choice.
        size: Height and width of the images, in pixels.
        fitted: Images for memory banks and Gaussians, whose size decides latency.
        timed: Images that the calls cycle through.
        precisions: The precisions of kdx's bundle.
    """

    data: Path
    work: Path
    threads: int
    backbone: str = "resnet18"
    taps: str | None = "layer1,layer2,layer3"
    size: int = 256
    fitted: int = 100
    timed: int = 16
    precisions: str = CPU_PRECISIONS

    def images(self, count: int) -> NDArray[np.uint8]:
        """Return good images, evenly from the whole set, uint8 ``(N, size, size, 3)``."""
        paths = require_good(open_data(self.data))
        count = min(count, len(paths))
        spec = InputSpec(height=self.size, width=self.size, channels=3, fixed_size=False)
        return np.stack([read_image(paths[i * len(paths) // count], spec) for i in range(count)])

    def prepared(self, method: str) -> Prepared:
        """Return kdx's bundle of a method, with random weights."""
        options = ("--backbone", self.backbone, "--image-size", str(self.size), "--sigma", "4")
        taps = ("--taps", self.taps) if self.taps else ()
        model = BenchmarkModel(f"kdx-{method}", method, (*options, *taps), camera=self.size, precisions=self.precisions)
        return prepare_bundle(model, self.data, self.work)


@dataclass(frozen=True)
class Row:
    """One method in one system, runtime and precision.

    Attributes:
        method: The method; its rows are timed against each other.
        system: Whose model it is: kdx, anomalib, or the eager loop.
        title: The name of the model.
        runs_in: The runtime or inferencer.
        precision: What it computes in.
        asked: Whether that precision was asked for, or is what the runtime took of its own accord.
        gated: Whether kdx's export compared it with FP32; None where nobody does.
        candidate: How it is loaded; None where it cannot run.
        error: Why it cannot run.
    """

    method: str
    system: str
    title: str
    runs_in: str
    precision: str
    asked: bool = True
    gated: bool | None = None
    candidate: Candidate | None = None
    error: str = ""


def kdx_rows(setup: Setup, method: str) -> list[Row]:
    """Return the eager loop, and every backend and precision that runs kdx's bundle here."""
    prepared = setup.prepared(method)
    loop, *others = candidates(prepared, eager=True)
    rows = [Row(method, EAGER, method, "PyTorch", "fp32", candidate=loop)]
    for candidate in others:
        backend, precision = candidate.name.split()
        compared = [c["passed"] for c in prepared.comparisons if (c["backend"], c["precision"]) == (backend, precision)]
        gated = bool(compared) and all(compared)
        rows.append(Row(method, KDX, method, backend, precision, gated=gated, candidate=candidate))
    for precision, reason in prepared.refused.items():
        rows.append(Row(method, KDX, method, "", precision, gated=False, error=f"not exported: {reason}"))
    return rows


def export_peer(setup: Setup, method: str) -> dict[str, Any]:
    """Let anomalib build, fit and export a model, or say in ``error`` why there is none."""
    if not find_spec("anomalib"):
        return {"settings": {}, "exports": {}, "error": 'anomalib is not installed (pip install -e ".[peers]")'}
    folder = setup.work / f"anomalib-{method}-{setup.size}-{setup.fitted}"
    kept, log = folder / "exports.json", folder / "log.txt"
    if not kept.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", setup.images(setup.fitted))
        command = [sys.executable, "-W", "ignore", "-m", _EXPORTS, method, str(folder / "images.npy"), str(folder)]
        print(f"$ python -m {_EXPORTS} {method}", flush=True)
        with log.open("w", encoding="utf-8") as file:  # progress bars, and the reports of exporters
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False, env=environment())
        if done.returncode:
            said = log.read_text(encoding="utf-8", errors="replace").strip()
            reason = f"the model was not built: {said.splitlines()[-1][:300] if said else done.returncode}"
            kept.write_text(json.dumps({"settings": {}, "exports": {}, "error": reason}), encoding="utf-8")
    record: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return record


def anomalib_rows(method: str, record: dict[str, Any]) -> list[Row]:
    """Return a row for each inferencer or runtime, export and precision that was exported."""
    title, own = PEERS[method].title, openvino_precision()
    rows = []
    for runs_in, export, loader, asked in _RUNNERS:
        precision = asked or own
        if export == "openvino" and asked == own:
            continue  # the same as it comes
        found = record["exports"].get(export, {})
        error = record.get("error", "") or found.get("error", "")
        hint = "f32" if asked == "fp32" and loader == "openvino_inferencer" else None
        arguments = {"model": found.get("path"), "precision": hint}
        name = f"{ANOMALIB} {title}, {runs_in} {precision}"
        candidate = None if error else Candidate(name, f"{_LOADERS}:{loader}", arguments)
        asked_for = asked is not None
        rows.append(Row(method, ANOMALIB, title, runs_in, precision, asked_for, candidate=candidate, error=error))
    return rows


def openvino_precision() -> str:
    """Return OpenVINO's default precision for an FP32 model on this CPU, which may be BF16."""
    if not find_spec("openvino"):
        return "fp32"
    import openvino as ov

    hint = str(ov.Core().get_property("CPU", "INFERENCE_PRECISION_HINT"))
    return "bf16" if "bf" in hint else "fp32"
