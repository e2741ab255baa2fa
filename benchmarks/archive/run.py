"""How quickly an archive is scored by one worker and by two: local processes and Ray.

    python -m benchmarks archive BUNDLE DATA

Every image under DATA is brought to the bundle's camera size, kept as JPEG, and linked into the
archive as often as ``--frames`` asks for. Every candidate is a ``kdx score`` of its own into an
empty folder, one thread a worker; they take turns, forwards and backwards alternately. Beside them
a plain loop: ``kdx.load`` and ``kdx.read_image`` in one process, one thread, which neither hashes,
records nor resumes. Writes ``results/archive.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

import kdx
from benchmarks.commands import kdx as command
from benchmarks.commands import parser_of, run_module
from benchmarks.results import Result, machine_of
from kdx.folders.image_search import walk
from kdx.imaging.images import decode_image
from kdx.imaging.resampling import resize_image

LOOP = "loop"
_PACKAGES = ("kdx", "numpy", "onnxruntime", "openvino", "pyarrow", "ray")
_CANDIDATES = (("local", 1), ("local", 2), ("ray", 1), ("ray", 2))


def main() -> None:
    """Measure and write the result."""
    parser = parser_of(__doc__, "bundle", "data", frames=4000, rounds=3, shard_size=100)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--loop", action="store_true", help=argparse.SUPPRESS)  # the plain loop's process
    arguments = parser.parse_args()
    if arguments.loop:
        print(json.dumps(loop(arguments.bundle, arguments.data, arguments.backend, arguments.precision)))
        return
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's actors run at a low priority otherwise
    manifest = kdx.open_bundle(arguments.bundle).manifest
    settings = {
        "method": manifest.method, "backbone": manifest.provenance.backbone,
        "image": [manifest.input.height, manifest.input.width],
        **{name: getattr(arguments, name) for name in ("backend", "precision", "shard_size")},
    }  # fmt: skip
    budget = {"frames": arguments.frames, "rounds": arguments.rounds}
    result = Result.resume("archive", {"machine": machine_of(1, _PACKAGES), "settings": settings}, budget)
    with tempfile.TemporaryDirectory() as folder:
        archive = make_archive(arguments.bundle, arguments.data, Path(folder), arguments.frames)
        turns = [bool(number % 2) for number in range(arguments.rounds)]
        rounds = [_round(arguments, archive, Path(folder), backwards=backwards) for backwards in turns]
    result.put(rows=medians_of_rounds(rounds))


def make_archive(bundle: Path, data: Path, folder: Path, frames: int) -> Path:
    """Resize images to a bundle's input, and link them into an archive, a thousand a folder."""
    spec = kdx.open_bundle(bundle).manifest.input
    images, archive = folder / "images", folder / "archive"
    images.mkdir()
    for index, path in enumerate(islice(walk(data), frames)):
        pixels = resize_image(decode_image(data / path, channels=spec.channels), spec.height, spec.width)
        image = Image.fromarray(pixels[..., 0] if spec.channels == 1 else pixels)
        image.save(images / f"{index:06d}.jpg", quality=95)
    for index, image in enumerate(islice(cycle(sorted(images.iterdir())), frames)):
        target = archive / f"{index // 1000:03d}" / f"{index:07d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(image)
    return archive


def _round(arguments: argparse.Namespace, archive: Path, folder: Path, *, backwards: bool) -> dict[str, dict[str, Any]]:
    """Run every candidate once; return what each said of its call."""
    names = [LOOP, *(f"{engine} {workers}" for engine, workers in _CANDIDATES)]
    found: dict[str, dict[str, Any]] = {}
    for name in reversed(names) if backwards else names:
        if name == LOOP:
            order = ("--backend", arguments.backend, "--precision", arguments.precision, "--loop")
            found[name] = run_module("benchmarks.archive.run", arguments.bundle, archive, *order, threads=1)
            continue
        engine, workers = name.split()
        out = folder / f"{engine}-{workers}-{time.time_ns()}"
        summary = command(
            *("score", arguments.bundle, archive, "-o", out, "--engine", engine, "--workers", workers),
            *("--threads-per-worker", "1", "--backend", arguments.backend, "--precision", arguments.precision),
            *("--shard-size", str(arguments.shard_size)),
        )
        if summary["frames"] != arguments.frames or summary["bad"]:
            sys.exit(f"{name} scored {summary['frames']} frames, {summary['bad']} of them bad")
        found[name] = summary["this_run"]
    return found


def loop(bundle: Path, archive: Path, backend: str, precision: str) -> dict[str, float]:
    """Score an archive as one would without kdx score, and return its frames a second."""
    started = time.perf_counter()
    detector = kdx.load(bundle, backend, 1, precision=precision)
    loaded = time.perf_counter()
    frames = sum(detector(kdx.read_image(archive / path, detector.input)).score >= 0 for path in walk(archive))
    seconds = time.perf_counter() - started
    busy = time.perf_counter() - loaded
    rates = {"frames_per_second": frames / seconds, "frames_per_second_per_worker": frames / busy}
    return {"workers": 1, "seconds": round(seconds, 3), **{name: round(rate, 2) for name, rate in rates.items()}}


def medians_of_rounds(rounds: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return each candidate's medians over the rounds, and each engine's gain from a second worker.

    Growth is the median of the rounds' own ratios: a machine whose speed drifts drifts for both.
    """
    rows = []
    for name in (LOOP, *(f"{engine} {workers}" for engine, workers in _CANDIDATES)):
        engine, _, workers = name.partition(" ")
        rates = [one[name]["frames_per_second"] for one in rounds]
        working = [one[name]["frames_per_second_per_worker"] for one in rounds]
        single = LOOP if engine == LOOP else f"{engine} 1"
        growth = [one[name]["frames_per_second"] / one[single]["frames_per_second"] for one in rounds]
        rows.append({
            "engine": engine, "workers": int(workers or 1), "frames_per_second": round(median(rates), 1),
            "per_core": round(median(rates) / int(workers or 1), 1), "per_worker_at_work": round(median(working), 1),
            "times_one_worker": round(median(growth), 2),
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
