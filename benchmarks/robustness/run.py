"""What kdx survives: very many frames, many threads, damaged files, commands killed at every step.

    python -m benchmarks robustness DATA [--work DIR] [--frames N] [--examples N] [--parts soak]

DATA is what ``kdx train`` takes; it must hold good test images. The tools are those of
``tests/robustness/tools``, which the tests use for shorter runs. Writes ``results/robustness.json``
after every part. Linux only, with the extra ``test``; about an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.bundles import BenchmarkModel, Prepared, candidates, prepare_bundle, stpm_lite0
from benchmarks.commands import environment, kdx, parser_of
from benchmarks.results import Result, machine_of, run_parts
from kdx.bundle.open import open_bundle
from kdx.imaging.images import encode_png, read_image
from kdx.storage.files import new_folder

_PACKAGES = ("hypothesis", "kdx", "numpy", "onnxruntime", "openvino", "pillow", "torch")
_TOOLS = "tests.robustness.tools"
_THREADS, _CALLS, _ROUNDS = 16, 200, 10
_CHUNK = 500  # damaged files to a process
_IMAGES = 64
_SOAKED = {("onnxruntime-cpu", "fp32"), ("openvino", "int8")}
_KINDS = ("index", "reference", "training", "engine", "image", "graph")
_SMALL = stpm_lite0("robust-lite0", side=64)
_TINY = BenchmarkModel(
    "robust-tiny", options=("--backbone", "test_resnet", "--image-size", "64"), camera=64, max_batch=8,
    precisions="fp32",
)  # fmt: skip
Row = dict[str, Any]


class RobustnessBenchmark:
    """One run of the benchmark."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.data, self.work = arguments.data.resolve(), arguments.work.resolve()
        self.frames, self.examples, self.threads = arguments.frames, arguments.examples, arguments.threads

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Return what is done, by its name in the result."""
        return {"soak": self.soak, "fuzz": self.fuzz, "kill": self.kill, "threads": self.hammer}

    def soak(self) -> list[Row]:
        """Judge very many frames on each CPU backend, a tenth of them in its other precisions."""
        found = []
        for job in self.backends():
            frames = self.frames if (job["backend"], job["precision"]) in _SOAKED else self.frames // 10
            (row,) = _required(self.tool("soak", {**job, "frames": frames}))
            found.append({"model": _SMALL.name, "side": _SMALL.camera, **row})
            print({key: value for key, value in found[-1].items() if key != "samples"}, flush=True)
        return found

    def fuzz(self) -> list[Row]:
        """Give everything that kdx reads many damaged files; a few hundred to a process."""
        prepared, found = self.calibrated(_TINY), {}
        image = str(self.good_folder() / "000.png")
        for kind in _KINDS:
            for start in range(0, self.examples, _CHUNK):
                folder = self.fresh("fuzz")
                shutil.copytree(prepared.bundle, folder / "tile.kdx")
                job = {"kind": kind, "folder": str(folder), "image": image, "start": start}
                for row in self.tool("fuzz", {**job, "examples": min(_CHUNK, self.examples - start)}):
                    broken = {"target": kind, "tried": 0, "accepted": 0, "faults": [row.get("error")]}
                    row = broken if "error" in row else row
                    _add(found.setdefault(row["target"], {}), row)
        print(*found.values(), sep="\n", flush=True)
        return list(found.values())

    def kill(self) -> Row:
        """Kill commands that change a bundle wherever they change a file, and let commands race."""
        prepared = self.calibrated(_TINY)
        kept: Row = {"bundle": str(prepared.bundle), "work": str(self.fresh("kill"))}
        calibrate = ["calibrate", "{bundle}", str(self.good_folder()), "--false-reject-rate"]
        size = f"{_TINY.camera}x{_TINY.camera}"
        export = ["export", str(prepared.run), "-o", "{bundle}", "--input-size", size, "--force", "--max-batch"]
        with_engine = self.fresh("engine") / "tile.kdx"
        shutil.copytree(prepared.bundle, with_engine)
        kdx(*_build(str(with_engine), 3))
        traced = [f"{_TOOLS}.setups:graph_at_hand:{prepared.bundle}/model.onnx"]
        coarse = [*traced, f"{_TOOLS}.setups:no_exchange"]
        forced = [*_build("{bundle}", 1), "--force"]
        exporting = {"command": [*export, "4"], **kept, "repeat": 6, "random": 20}
        kills = [
            {"name": "calibrate", "command": [*calibrate, "0.3"], **kept, "repeat": 6, "random": 20},
            {"name": "export --force", **exporting, "setup": traced},
            {"name": "export --force, no exchange", **exporting, "setup": coarse},
            {"name": "build-engine", "command": _build("{bundle}", 3), **kept, "random": 5},
            {"name": "build-engine --force", "command": forced, **kept, "bundle": str(with_engine), "repeat": 3},
        ]
        two = [[*calibrate, "0.25"], [*calibrate, "0.4"]]
        common = {**kept, "setup": traced}
        races = [
            {"name": "calibrate and calibrate", "commands": two, **common, "rounds": 20},
            {"name": "calibrate and export --force", "commands": [two[0], [*export, "4"]], **common, "rounds": 20},
            {"name": "export --force twice", "commands": [[*export, "4"], [*export, "6"]], **common, "rounds": 10},
        ]
        return _required(self.tool("race", {"kills": kills, "races": races}))[0]

    def hammer(self) -> list[Row]:
        """Let threads use one detector, load and close in parallel, and close during calls."""
        return [
            {"backend": job["backend"], "precision": job["precision"], **row}
            for job in self.backends()
            for row in self.tool("threads", {**job, "workers": _THREADS, "calls": _CALLS, "rounds": _ROUNDS})
        ]

    def backends(self) -> list[Row]:
        """Return what each backend and precision needs to load the small bundle, and the frames."""
        prepared, frames = self.calibrated(_SMALL), self.work / "frames.npy"
        spec = open_bundle(prepared.bundle).manifest.input
        np.save(frames, np.stack([read_image(path, spec) for path in sorted(self.good_folder().iterdir())]))
        common = {"threads": self.threads, "images": str(frames)}
        return [{**candidate.arguments, **common} for candidate in candidates(prepared)]

    def calibrated(self, model: BenchmarkModel) -> Prepared:
        """Return a bundle with random weights and thresholds."""
        prepared = prepare_bundle(model, self.data, self.work)
        if open_bundle(prepared.bundle).manifest.threshold is None:
            kdx("calibrate", prepared.bundle, self.good_folder(), "--false-reject-rate", "0.2", allow=(0, 1))
        return prepared

    def good_folder(self) -> Path:
        """Return a folder with some good test images, which no student has seen, resized."""
        folder = self.work / "good"
        if not folder.is_dir():
            from kd_train.datasets import open_data

            spec = open_bundle(prepare_bundle(_TINY, self.data, self.work).bundle).manifest.input
            any_size = msgspec.structs.replace(spec, fixed_size=False)
            good = [image.path for image in open_data(self.data).test if not image.is_defective]
            with new_folder(folder) as filled:
                for index, path in enumerate(good[:_IMAGES]):
                    (filled / f"{index:03d}.png").write_bytes(encode_png(read_image(path, any_size)))
        return folder

    def fresh(self, name: str) -> Path:
        """Return an empty folder."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def tool(self, name: str, job: Row) -> list[Row]:
        """Run a tool in another process; return its rows, or one with ``error`` where it died."""
        file = self.work / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", f"{_TOOLS}.{name}", str(file)]
        done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=False, env=environment())
        if done.returncode:
            return [{"error": f"the process ended with status {done.returncode}"}]
        found = json.loads(done.stdout.splitlines()[-1])
        return found if isinstance(found, list) else [found]


def _required(rows: list[Row]) -> list[Row]:
    """Return rows of a tool without which there is no result."""
    if "error" in rows[0]:
        sys.exit(rows[0]["error"])
    return rows


def _build(bundle: str, level: int) -> list[str]:
    return [*("build-engine", bundle, "--flavour", "rtx", "--compute-capability", "8.6"), "--level", str(level)]


def _add(total: Row, row: Row) -> None:
    """Add a chunk of a target's files to what was found before."""
    for key, value in row.items():
        known = total.get(key, type(value)())
        added = known + value if isinstance(value, (int, list)) else value
        total[key] = max(known, value) if key in {"slowest_ms", "memory_mb"} else added


def main() -> None:
    """Do the parts that are asked for, and write after each."""
    parser = parser_of(__doc__, "data", threads=2)
    parser.add_argument("--work", type=Path, default=Path("robustness-work"), help="Where bundles are kept.")
    parser.add_argument("--frames", type=int, default=200_000, help="For each backend; a tenth for other precisions.")
    parser.add_argument("--examples", type=int, default=3_000, help="For each kind of file.")
    parser.add_argument("--parts", help="Comma-separated; default: all.")
    arguments = parser.parse_args()
    os.environ.setdefault("KDX_CACHE_DIR", str(arguments.work.resolve() / "cache"))
    identity = {"machine": machine_of(arguments.threads, _PACKAGES), "settings": {}}
    budget = {"frames": arguments.frames, "examples": arguments.examples}
    result = Result.resume("robustness", identity, budget)
    arguments.work.mkdir(parents=True, exist_ok=True)
    run_parts(result, RobustnessBenchmark(arguments).parts(), arguments.parts)
