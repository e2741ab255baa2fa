"""Eight products with one teacher in one process: memory and milliseconds, each for itself against one shared teacher.

    python -m benchmarks.cpu.shared_teacher DATA

DATA is any folder that ``kdx train`` takes. Teacher: ResNet-18 with random weights, the same for all; students: STPM,
one epoch on few images, of different seeds. Neither memory nor latency depends on what they learn. Writes
``results/shared_teacher.json``. Needs OpenVINO, and Linux's ``/proc``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kdx
from benchmarks.commands import kdx as command
from benchmarks.commands import run_module, write
from benchmarks.timing.turns import Candidate, time_in_turns
from kdx.runtime.latency import describe_machine, usable_cores

SEPARATE, SHARED = "separate", "shared"
STUDENTS = (1, 2, 4, 8)
_BACKEND = "openvino"
_PACKAGES = ("kdx", "numpy", "openvino")


def main() -> None:
    """Make eight bundles and measure them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--bundles", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--train-fraction", default="0.05")
    parser.add_argument("--hold", help=argparse.SUPPRESS)  # the process whose memory is measured
    arguments = parser.parse_args()
    if arguments.hold:
        print(json.dumps(_hold(json.loads(arguments.hold))))
        return
    if arguments.data is None:
        parser.error("DATA is missing")
    with tempfile.TemporaryDirectory() as folder:
        bundles = make_bundles(
            arguments.data, Path(folder), arguments.bundles, arguments.size, train_fraction=arguments.train_fraction
        )
        write("shared_teacher.json", measure(bundles, threads=arguments.threads, runs=arguments.runs))


def make_bundles(
    data: Path, folder: Path, count: int, size: int = 256, *, train_fraction: str = "0.05"
) -> dict[str, Path]:
    """Train and export students of one teacher; return the bundles by name."""
    from safetensors.torch import save_file

    from kd_train.models.backbones import create_backbone

    # Random weights are drawn anew for each seed: one draw is kept, and every run starts from it.
    weights = folder / "teacher.safetensors"
    state = create_backbone("resnet18").state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
    bundles = {}
    for seed in range(count):
        name = f"product{seed + 1}"
        run, bundles[name] = folder / f"{name}.run", folder / f"{name}.kdx"
        command(
            "train", data, "--backbone", "resnet18", "--taps", "layer1,layer2,layer3", "--weights", weights,
            "--out", run, "--seed", str(seed), "--epochs", "1", "--image-size", str(size), "--channels", "3",
            "--train-fraction", train_fraction, "--validation-fraction", "0.05", "--sigma", "4",
            "--learning-rate", "0.01",
        )  # fmt: skip
        command("export", run, "-o", bundles[name], "--input-size", f"{size}x{size}")
    return bundles


def measure(
    bundles: dict[str, Path],
    *,
    threads: int | None = None,
    precision: str = "fp32",
    students: Sequence[int] = STUDENTS,
    runs: int = 200,
    say: Callable[[str], None] | None = print,
) -> dict[str, Any]:
    """Measure bundles of one teacher, loaded one by one and together.

    Args:
        bundles: By name.
        threads: Of each detector and of the group; None for every core.
        precision: In which all run.
        students: How many of them judge an image.
        runs: Counted calls of each way and number of students.
        say: Is told what happens, a line at a time.

    Returns:
        ``machine``, ``bundles``, ``precision``; ``memory``: of each way what the process holds once every bundle has
        judged an image, in megabytes, beyond what it holds with OpenVINO loaded and no bundle; ``latency``: for each
        number of students the median milliseconds an image, and how many times as fast the shared teacher is.
    """
    count = threads or usable_cores()
    order = {"bundles": {name: str(path) for name, path in bundles.items()}, "precision": precision, "threads": count}
    for way in (SEPARATE, SHARED):  # fills the cache of compiled models: what is measured is every start but the first
        _held(order, way)
    memory = {way: _held(order, way) for way in (SEPARATE, SHARED)}
    candidates = [
        Candidate(
            name=f"{way} {number}",
            loader="benchmarks.cpu.shared_teacher:load",
            arguments={"way": way, "bundles": json.dumps(_first(order, number)), **_plain(order)},
        )
        for number in students
        if number <= len(bundles)
        for way in (SEPARATE, SHARED)
    ]
    images = kdx.open_bundle(next(iter(bundles.values()))).golden().images
    timed = time_in_turns(candidates, images, threads=count, runs=runs, say=say)
    return {
        "machine": _machine(count),
        "bundles": len(bundles),
        "precision": precision,
        "memory": {**memory, "saved": round(1 - memory[SHARED]["pss_mb"] / memory[SEPARATE]["pss_mb"], 3)},
        "latency": [
            {
                "students": number,
                **{
                    row.name.split()[0]: {"p50_ms": row.p50_ms, "p99_ms": row.p99_ms, "error": row.error}
                    for row in pair
                },
                "speed_up": round(pair[0].p50_ms / pair[1].p50_ms, 2) if pair[0].p50_ms and pair[1].p50_ms else None,
            }
            for number, pair in zip(students, zip(timed[::2], timed[1::2], strict=True), strict=False)
        ],
    }


def load(arguments: dict[str, Any]) -> Callable[[NDArray[np.uint8]], list[float]]:
    """Return what judges a batch of one image by every bundle, and returns their scores."""
    order = {**arguments, "bundles": json.loads(arguments["bundles"])}
    judge = _judge(order, arguments["way"])
    return lambda batch: judge(batch[0])


def _judge(order: dict[str, Any], way: str) -> Callable[[NDArray[np.uint8]], list[float]]:
    options = {"backend": _BACKEND, "precision": order["precision"], "threads": order["threads"]}
    if way == SHARED:
        group = kdx.load_many(order["bundles"], **options, shared_teacher=True)
        return lambda image: [verdict.score for verdict in group(image).values()]
    detectors = [kdx.load(path, **options) for path in order["bundles"].values()]
    return lambda image: [detector(image).score for detector in detectors]


def _held(order: dict[str, Any], way: str) -> dict[str, float]:
    """Return what a fresh process holds."""
    found: dict[str, float] = run_module("benchmarks.cpu.shared_teacher", "--hold", json.dumps({**order, "way": way}))
    return found


def _hold(order: dict[str, Any]) -> dict[str, float]:
    """Load bundles in this process, judge an image, and return the memory that this took."""
    import time

    from kdx.runtime.openvino import load as openvino_load

    image = kdx.open_bundle(next(iter(order["bundles"].values()))).golden().images[0]
    openvino_load.offers_bf16()  # loads the plugin
    before = _memory()
    started = time.perf_counter()
    judge = _judge(order, order["way"])
    judge(image)
    load_s = time.perf_counter() - started
    judge(image)
    after = _memory()
    return {**{name: round(after[name] - before[name], 1) for name in after}, "load_s": round(load_s, 2)}


def _memory() -> dict[str, float]:
    """Return this process's resident and proportional set sizes, in megabytes."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    sizes = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return {f"{name.lower()}_mb": round(sizes[name] * 1024 / 1e6, 1) for name in ("Rss", "Pss")}


def _first(order: dict[str, Any], number: int) -> dict[str, str]:
    return dict(list(order["bundles"].items())[:number])


def _plain(order: dict[str, Any]) -> dict[str, Any]:
    return {name: order[name] for name in ("precision", "threads")}


def _machine(threads: int) -> dict[str, Any]:
    import msgspec

    machine: dict[str, Any] = msgspec.to_builtins(
        describe_machine(threads, {name: version(name) for name in _PACKAGES})
    )
    return {**machine, "load_average": round(os.getloadavg()[0], 2)}


if __name__ == "__main__":
    main()
