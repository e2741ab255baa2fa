"""What ``peers.py`` measures: prepared once and kept, then one row for each way to run each method."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.commands import environment, kdx
from benchmarks.peers.anomalib_exports import PEERS
from benchmarks.timing.turns import Candidate
from kd_train.datasets import open_data
from kdx.bundle.variants import PRECISIONS
from kdx.folders.data_folder import require_good
from kdx.imaging.images import InputSpec, read_image
from kdx.verification.backend_choice import backend_precision_pairs

KDX, ANOMALIB, EAGER = "kdx", "anomalib", "eager loop"
# What kdx has of these methods; the recipes' other choices are the papers'.
KDX_METHODS = ("stpm", "reverse-distillation")
_EXPORTS = "benchmarks.peers.anomalib_exports"
# Who runs an export of anomalib's, which one, and with which precision asked for; None leaves it to the runtime.
_WAYS = (
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
        data: Anything that ``kdx train`` takes.
        work: Where what is prepared is kept.
        threads: Of every candidate.
        backbone: kdx's teacher; anomalib's is ResNet-18.
        taps: kdx's; None for its own choice.
        size: Height and width of the images.
        fitted: Images for memory banks and Gaussians; their size decides latency.
        timed: Images that the calls cycle through.
        precisions: Of kdx's bundle. CPUs compute FP16 graphs in FP32.
    """

    data: Path
    work: Path
    threads: int
    backbone: str = "resnet18"
    taps: str | None = "layer1,layer2,layer3"
    size: int = 256
    fitted: int = 100
    timed: int = 16
    precisions: tuple[str, ...] = tuple(one for one in PRECISIONS if one != "fp16")

    def images(self, count: int) -> NDArray[np.uint8]:
        """Return good images, evenly from the whole set, uint8 ``(N, size, size, 3)``: what a camera would send."""
        paths = require_good(open_data(self.data))
        count = min(count, len(paths))
        spec = InputSpec(height=self.size, width=self.size, channels=3, fixed_size=False)
        return np.stack([read_image(paths[i * len(paths) // count], spec) for i in range(count)])


@dataclass(frozen=True)
class Row:
    """One way to run one method.

    Attributes:
        method: Whose rows are timed against each other.
        system: Whose model it is: kdx, anomalib, or the eager loop.
        title: The model's name.
        runs_in: Runtime or inferencer.
        precision: What it computes in.
        asked: Whether that precision was asked for, or is what the runtime took of its own accord.
        gated: Whether kdx's export held it against FP32; None where nobody does.
        candidate: How it is loaded; None where it cannot be.
        error: Why not.
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


def prepare_kdx(setup: Setup, method: str, *, again: bool = False) -> Path:
    """Train for one epoch and export in every precision; return the folder with ``run``, ``method.kdx``, ``done.json``.

    The weights are random: latency does not depend on them, nor on how long the student learned.
    """
    folder = setup.work / f"kdx-{method}"

    def make() -> dict[str, Any]:
        taps = [] if setup.taps is None else ["--taps", setup.taps]
        kdx(
            "train", setup.data, "--method", method, "--backbone", setup.backbone, *taps, "--weights", "random",
            "--out", folder / "run", "--epochs", "1", "--image-size", str(setup.size), "--train-fraction", "0.05",
            "--channels", "3", "--sigma", "4", "--learning-rate", "0.001", threads=setup.threads,
        )  # fmt: skip
        size = f"{setup.size}x{setup.size}"
        exported = kdx(
            "export", folder / "run", "-o", folder / f"{method}.kdx", "--input-size", size,
            "--precision", ",".join(setup.precisions), allow=(0, 1), threads=setup.threads,
        )  # fmt: skip
        return {"refused": exported["refused"], "compared": exported["certificate"]["comparisons"]}

    return _prepared(folder, _facts(setup), make, again=again)


def prepare_anomalib(setup: Setup, method: str, *, again: bool = False) -> Path:
    """Let ``anomalib_exports.py`` build, fit and export a model; return the folder with ``exports.json``."""
    folder = setup.work / f"anomalib-{method}"

    def make() -> dict[str, Any]:
        np.save(folder / "images.npy", setup.images(setup.fitted))
        command = [sys.executable, "-W", "ignore", "-m", _EXPORTS, method, str(folder / "images.npy"), str(folder)]
        print(f"$ python -m {_EXPORTS} {method}", flush=True)
        with (folder / "log.txt").open("w") as log:  # progress bars, and exporters that tell of their progress
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False, env=environment())
        said = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip()
        if done.returncode:
            reason = f"it cannot be built: {said.splitlines()[-1][:300] if said else done.returncode}"
            (folder / "exports.json").write_text(json.dumps({"settings": {}, "exports": {}, "error": reason}))
        return {}

    return _prepared(folder, _facts(setup), make, again=again)


def kdx_rows(setup: Setup, method: str, folder: Path) -> list[Row]:
    """Return the eager loop and every way of this machine to run the bundle."""
    from kdx.bundle.open import open_bundle

    bundle, found = folder / f"{method}.kdx", json.loads((folder / "done.json").read_text(encoding="utf-8"))["found"]
    rows = [eager_row(setup, method, folder)]
    for info, precision in backend_precision_pairs(open_bundle(bundle)):
        compared = [c for c in found["compared"] if (c["backend"], c["precision"]) == (info.name, precision)]
        arguments = {"bundle": str(bundle), "backend": info.name, "precision": precision, "threads": setup.threads}
        name = f"{KDX} {method}, {info.name} {precision}"
        candidate = Candidate(name, "benchmarks.peers.loaders:bundle", arguments, group=method)
        gated = bool(compared) and all(c["passed"] for c in compared)
        rows.append(Row(method, KDX, method, info.name, precision, gated=gated, candidate=candidate))
    for precision, reason in found["refused"].items():
        rows.append(Row(method, KDX, method, "", precision, gated=False, error=f"not exported: {reason}"))
    return rows


def eager_row(setup: Setup, method: str, folder: Path) -> Row:
    """Return the papers' harness of a method, which everything is held against."""
    arguments = {"run": str(folder / "run"), "bundle": str(folder / f"{method}.kdx"), "threads": setup.threads}
    candidate = Candidate(f"{EAGER}, {method}", "benchmarks.peers.loaders:eager_loop", arguments, group=method)
    return Row(method, EAGER, method, "PyTorch", "fp32", candidate=candidate)


def anomalib_rows(setup: Setup, method: str, folder: Path | None) -> list[Row]:
    """Return every way that anomalib has to run a model of its own; without a folder, why there is none."""
    title = PEERS[method].title
    record: dict[str, Any] = {"exports": {}, "error": absent_reason()}
    if folder is not None:
        record = json.loads((folder / "exports.json").read_text(encoding="utf-8"))
    own = openvino_precision()
    rows = []
    for runs_in, export, loader, asked in _WAYS:
        precision = asked or own
        if export == "openvino" and asked == own:
            continue  # the same as it comes
        told = asked == "fp32" and loader == "openvino_inferencer"
        found = record["exports"].get(export, {})
        error = record.get("error", "") or found.get("error", "")
        hint = "f32" if told else None
        arguments = {"model": found.get("path"), "threads": setup.threads, "precision": hint}
        name = f"{ANOMALIB} {title}, {runs_in} {precision}"
        candidate = None if error else Candidate(name, f"benchmarks.peers.loaders:{loader}", arguments, group=method)
        rows.append(
            Row(method, ANOMALIB, title, runs_in, precision, asked is not None, candidate=candidate, error=error)
        )
    return rows


def absent_reason() -> str:
    """Return why anomalib cannot run here, or nothing."""
    return "" if find_spec("anomalib") else 'anomalib is not installed (pip install -e ".[peers]")'


def openvino_precision() -> str:
    """Return what OpenVINO computes an FP32 model in on this CPU when nobody says: BF16 where there is BF16."""
    if not find_spec("openvino"):
        return "fp32"
    import openvino as ov

    hint = str(ov.Core().get_property("CPU", "INFERENCE_PRECISION_HINT"))
    return "bf16" if "bf" in hint else "fp32"


def _facts(setup: Setup) -> dict[str, Any]:
    return {
        "data": str(setup.data.resolve()),
        "backbone": setup.backbone,
        "taps": setup.taps,
        "size": setup.size,
        "fitted": setup.fitted,
        "precisions": list(setup.precisions),
    }


def _prepared(folder: Path, facts: dict[str, Any], make: Callable[[], dict[str, Any]], *, again: bool) -> Path:
    """Return a folder that is there already and made from the same, or make it; ``done.json`` is written last."""
    done = folder / "done.json"
    if not again and done.is_file() and json.loads(done.read_text(encoding="utf-8"))["facts"] == facts:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    record = {"facts": facts, "found": make()}
    done.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return folder
