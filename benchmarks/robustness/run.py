"""What kdx survives, by one command: very many frames, many threads, damaged files, commands killed half way.

    python -m benchmarks robustness DATA [--work DIR] [--frames 200000] [--examples 3000] [--parts soak,fuzz,...]

DATA is what ``kdx train`` takes; it must hold good test images. Writes ``results/robustness.json``, a part at a time,
and sums up: frames, hours, inputs tried, crashes, leaks, bundles lost. Linux only. Wants half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.commands import RESULTS, environment, kdx, write
from benchmarks.cpu.models import Model, Prepared, candidates, prepare
from benchmarks.cpu.run import keep_parts
from kdx.bundle.open import open_bundle
from kdx.imaging.images import encode_png, read_image
from kdx.runtime.latency import describe_machine
from kdx.storage.files import new_folder

_PACKAGES = ("hypothesis", "kdx", "numpy", "onnxruntime", "openvino", "pillow", "torch")
_THREADS, _CALLS, _ROUNDS = 16, 200, 10
_CHUNK = 500
_IMAGES = 64
_SOAKED = {("onnxruntime-cpu", "fp32"), ("openvino", "int8")}
_SMALL = Model(
    "robust-lite0",
    "stpm",
    ("--backbone", "tf_efficientnet_lite0", "--taps", "blocks.2,blocks.4,blocks.5", "--image-size", "64"),
    camera=64,
)
_TINY = Model("robust-tiny", "stpm", ("--backbone", "test_resnet", "--image-size", "64"), camera=64, max_batch=8)
Row = dict[str, Any]


class Suite:
    """One run of the benchmark.

    Args:
        data: What ``kdx train`` takes.
        work: Where bundles are kept.
        frames: Of the soak, for each backend; a tenth for others of its precisions.
        examples: Damaged files for each kind of file.
        threads: Of each backend.
    """

    def __init__(self, data: Path, work: Path, frames: int, examples: int, threads: int) -> None:
        self.data, self.work, self.threads = data.resolve(), work.resolve(), threads
        self.frames, self.examples = frames, examples

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Return what is done, by its name in the record."""
        return {"soak": self.soak, "fuzz": self.fuzz, "kill": self.kill, "threads": self.hammer}

    def soak(self) -> list[Row]:
        """Judge very many frames on each CPU backend, a tenth in its other precisions, each in a process of its own."""
        prepared, images = self.calibrated(_SMALL, "fp32,bf16,int8"), self.images()
        found = []
        for candidate in candidates(prepared):
            way = self.way(candidate)
            frames = self.frames if (way["backend"], way["precision"]) in _SOAKED else self.frames // 10
            job = {**way, "images": str(images), "frames": frames}
            (row,) = self.script("soak", job)
            found.append({"model": prepared.model.name, "side": prepared.model.camera, **row})
            print(f"  {_brief(found[-1], 'samples')}", flush=True)
        return found

    def fuzz(self) -> list[Row]:
        """Give everything that kdx reads many damaged files; a few hundred to a process."""
        prepared = self.calibrated(_TINY, "fp32")
        found: dict[str, Row] = {}
        image = str(self.good_folder() / "000.png")
        for kind in ("index", "reference", "training", "engine", "image", "graph"):
            for start in range(0, self.examples, _CHUNK):
                folder = self.fresh("fuzz")
                shutil.copytree(prepared.bundle, folder / "tile.kdx")
                job = {"kind": kind, "folder": str(folder), "image": image, "start": start}
                job["examples"] = min(_CHUNK, self.examples - start)
                rows = self.script("fuzz", job, fatal=False)
                for row in rows:
                    _add(found.setdefault(row["target"], {}), row)
            print(*(f"  {found[row['target']]}" for row in rows), sep="\n", flush=True)
        print(*(f"  {row}" for row in found.values() if row["faults"]), sep="\n", flush=True)
        return list(found.values())

    def kill(self) -> Row:
        """Kill every command that changes a bundle wherever it changes a file, and let commands race."""
        prepared = self.calibrated(_TINY, "fp32")
        kept: Row = {"bundle": str(prepared.bundle), "work": str(self.fresh("kill"))}
        calibrate = ["calibrate", "{bundle}", str(self.good_folder()), "--false-reject-rate"]
        export = ["export", str(prepared.run), "-o", "{bundle}", "--force", "--max-batch"]
        with_engine = self.fresh("engine") / "tile.kdx"
        shutil.copytree(prepared.bundle, with_engine)
        kdx(*_build(str(with_engine), 3))
        traced = [f"benchmarks.robustness.setups:graph_at_hand:{prepared.bundle}/model.onnx"]
        forced = [*_build("{bundle}", 1), "--force"]
        coarse = [*traced, "benchmarks.robustness.setups:no_exchange"]
        exporting = {"command": [*export, "4"], **kept, "repeat": 6, "random": 20}
        kills = [
            {"name": "calibrate", "command": [*calibrate, "0.3"], **kept, "repeat": 6, "random": 20},
            {"name": "export --force", **exporting, "setup": traced},
            {
                "name": "export --force, no exchange",
                **exporting,
                "setup": coarse,
            },
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
        (found,) = self.script("race", {"kills": kills, "races": races})
        return found

    def hammer(self) -> list[Row]:
        """Let sixteen threads use one detector, load and close in parallel, and close while others judge."""
        prepared, images = self.calibrated(_SMALL, "fp32,bf16,int8"), self.images()
        given = {"images": str(images), "workers": _THREADS, "calls": _CALLS, "rounds": _ROUNDS}
        jobs = [{**self.way(way), **given} for way in candidates(prepared)]
        return [row for job in jobs for row in self.script("threads", job, fatal=False)]

    def way(self, way: Any) -> Row:
        """Return what loads a candidate."""
        names = ("bundle", "backend", "precision")
        return {**{name: way.arguments[name] for name in names}, "threads": self.threads}

    def prepared(self, model: Model, precisions: str) -> Prepared:
        """Return a bundle with random weights."""
        return prepare(model, self.data, self.work, precisions)

    def calibrated(self, model: Model, precisions: str) -> Prepared:
        """Return such a bundle with thresholds."""
        prepared = self.prepared(model, precisions)
        if open_bundle(prepared.bundle).manifest.threshold is None:
            kdx("calibrate", prepared.bundle, self.good_folder(), "--false-reject-rate", "0.2", allow=(0, 1))
        return prepared

    def good_folder(self) -> Path:
        """Return a folder with some good test images, which no student has seen, at the detectors' size."""
        folder = self.work / "good"
        if not folder.is_dir():
            from kd_train.datasets import open_data

            spec = open_bundle(self.prepared(_TINY, "fp32").bundle).manifest.input
            any_size = msgspec.structs.replace(spec, fixed_size=False)
            good = [image.path for image in open_data(self.data).test if not image.is_defective]
            with new_folder(folder) as filled:
                for index, path in enumerate(good[:_IMAGES]):
                    (filled / f"{index:03d}.png").write_bytes(encode_png(read_image(path, any_size)))
        return folder

    def images(self) -> Path:
        """Return a file of them."""
        spec = open_bundle(self.prepared(_SMALL, "fp32,bf16,int8").bundle).manifest.input
        file = self.work / "frames.npy"
        np.save(file, np.stack([read_image(path, spec) for path in sorted(self.good_folder().iterdir())]))
        return file

    def fresh(self, name: str) -> Path:
        """Return an empty folder."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def script(self, name: str, job: object, *, fatal: bool = True) -> list[Row]:
        """Run one of the scripts in a process of its own, and return the rows that it prints."""
        file = self.work / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", f"benchmarks.robustness.{name}", str(file)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment())
        if done.returncode and fatal:
            sys.exit(f"{name} ended with status {done.returncode}")
        if done.returncode:
            return [_broken(job, done.returncode)]
        found = json.loads(done.stdout.splitlines()[-1])
        return found if isinstance(found, list) else [found]


def _broken(job: Any, status: int) -> Row:
    """Return the row of a process that did not live to print one."""
    fault = f"the process ended with status {status}"
    if "kind" in job:
        return {"target": job["kind"], "tried": 0, "accepted": 0, "faults": [fault]}
    return {"backend": job["backend"], "precision": job["precision"], "error": fault}


def summary(record: Row) -> Row:
    """Return the few figures that matter: how much was tried, and what of it went wrong."""
    soaked, fuzzed = record.get("soak", []), record.get("fuzz", [])
    killed = record.get("kill", {})
    threaded = list(_threaded(record.get("threads", [])))
    return {
        "frames": sum(each["frames"] for each in soaked),
        "hours": round(sum(each["hours"] for each in soaked), 2),
        "inputs_tried": sum(each["tried"] for each in fuzzed),
        "kills": sum(each["kills"] for each in killed.get("kills", [])),
        "races": sum(each["rounds"] for each in killed.get("races", [])),
        "calls_of_threads": sum(each["calls"] for each in threaded),
        "crashes": sum(each["crashes"] for each in soaked)
        + sum(len(each["faults"]) for each in fuzzed)
        + sum(len(each["errors"]) for each in threaded)
        + sum("error" in each for each in record.get("threads", [])),
        "differing": sum(each["differing"] for each in (*soaked, *threaded)),
        "leaks": sum(each["leaks"] for each in soaked),
        "bundles_lost": sum(len(each["lost"]) for rows in killed.values() for each in rows),
    }


def _threaded(rows: list[Row]) -> Iterator[Row]:
    for row in rows:
        if "error" not in row:
            yield from (row["one detector"], *row["closed meanwhile"], row["loaded and closed"])


def _build(bundle: str, level: int) -> list[str]:
    return [*("build-engine", bundle, "--flavour", "rtx", "--compute-capability", "8.6"), "--level", str(level)]


def _add(total: Row, row: Row) -> None:
    """Add a chunk of a target's files to what was found before."""
    for key, value in row.items():
        if key in {"slowest_ms", "memory_mb"}:
            total[key] = max(total.get(key, 0.0), value)
        elif isinstance(value, (int, list)):
            total[key] = total.get(key, type(value)()) + value
        else:
            total[key] = value


def _brief(row: Row, *without: str) -> Row:
    return {key: value for key, value in row.items() if key not in without}


def main() -> None:
    """Do the parts that are asked for, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("robustness-work"), help="Where bundles are kept.")
    parser.add_argument(
        "--frames", type=int, default=200_000, help="For each backend; a tenth for others of its precisions."
    )
    parser.add_argument("--examples", type=int, default=3_000, help="For each kind of file.")
    parser.add_argument("--threads", type=int, default=2, help="Of each backend.")
    parser.add_argument("--parts", help="Comma-separated; default: all.")
    arguments = parser.parse_args()
    os.environ.setdefault("KDX_CACHE_DIR", str(arguments.work.resolve() / "cache"))
    suite = Suite(arguments.data, arguments.work, arguments.frames, arguments.examples, arguments.threads)
    parts = suite.parts()
    chosen = arguments.parts.split(",") if arguments.parts else list(parts)
    if unknown := set(chosen) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    suite.work.mkdir(parents=True, exist_ok=True)
    machine = msgspec.to_builtins(describe_machine(arguments.threads, {name: version(name) for name in _PACKAGES}))
    for name in chosen:
        print(f"== {name}", flush=True)
        started = time.perf_counter()
        found = parts[name]()
        file = RESULTS / "robustness.json"
        record = keep_parts(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}, machine)
        record[name] = found
        record["minutes"] = {**record.get("minutes", {}), name: round((time.perf_counter() - started) / 60, 1)}
        write("robustness.json", {"summary": summary(record), **{k: v for k, v in record.items() if k != "summary"}})


if __name__ == "__main__":
    main()
