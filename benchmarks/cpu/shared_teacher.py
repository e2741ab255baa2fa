"""Several products with one teacher: memory and time, with a copy each and with one for all.

The teacher is ResNet-18 with random weights, the same for all; students are STPM, one epoch on few
images, of different seeds. Neither memory nor latency depends on what they learn. Needs OpenVINO,
and Linux's ``/proc``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kdx
from benchmarks.bundles import prepare_bundle, stpm
from benchmarks.commands import run_module
from benchmarks.timing.memory import memory_mb
from benchmarks.timing.turns import Candidate, time_in_turns

SEPARATE, SHARED = "separate", "shared"
STUDENTS = (1, 2, 4, 8)
_BACKEND = "openvino"
Judge = Callable[[NDArray[np.uint8]], list[float]]


def make_bundles(data: Path, folder: Path, count: int) -> dict[str, Path]:
    """Train and export students of one teacher, or take those that are there."""
    weights = folder / "teacher.safetensors"
    if not weights.is_file():
        from safetensors.torch import save_file

        from kd_train.models.backbones import create_backbone

        # Random weights differ from seed to seed: one draw is kept, and every run starts from it.
        folder.mkdir(parents=True, exist_ok=True)
        state = create_backbone("resnet18").state_dict()
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, weights)
    bundles = {}
    for seed in range(count):
        model = stpm(f"product{seed + 1}")
        options = (*model.options, "--weights", str(weights), "--seed", str(seed), "--learning-rate", "0.01")
        bundles[model.name] = prepare_bundle(replace(model, options=options, precisions="fp32"), data, folder).bundle
    return bundles


def measure(bundles: dict[str, Path], *, threads: int, runs: int = 200) -> dict[str, Any]:
    """Measure bundles of one teacher, loaded one by one and together.

    ``memory`` is what the process holds once every bundle has judged an image, in megabytes, beyond
    what it holds with OpenVINO loaded and no bundle; ``latency`` is by the number of students.
    """
    order = {"bundles": {name: str(path) for name, path in bundles.items()}, "precision": "fp32", "threads": threads}
    for sharing in (SEPARATE, SHARED):  # fills the cache of compiled models: every start but the first is measured
        memory_held(order, sharing)
    memory = {sharing: memory_held(order, sharing) for sharing in (SEPARATE, SHARED)}
    images = kdx.open_bundle(next(iter(bundles.values()))).golden().images
    latency = []
    for number in (number for number in STUDENTS if number <= len(bundles)):
        some = json.dumps(dict(list(order["bundles"].items())[:number]))
        loader = "benchmarks.cpu.shared_teacher:load_judge"
        candidates = [
            Candidate(f"{sharing} {number}", loader, {**order, "sharing": sharing, "bundles": some})
            for sharing in (SEPARATE, SHARED)
        ]
        apart, together = time_in_turns(candidates, images, threads=threads, runs=runs)
        speed_up = round(apart.p50_ms / together.p50_ms, 2) if apart.p50_ms and together.p50_ms else None
        rows = {SEPARATE: asdict(apart), SHARED: asdict(together)}
        latency.append({"students": number, **rows, "speed_up": speed_up})
    return {"bundles": len(bundles), "precision": "fp32", "memory": memory, "latency": latency}


def load_judge(arguments: dict[str, Any]) -> Judge:
    """Return what judges a batch of one image by every bundle, and returns their scores."""
    judge = _judge({**arguments, "bundles": json.loads(arguments["bundles"])})
    return lambda batch: judge(batch[0])


def _judge(order: dict[str, Any]) -> Judge:
    options = {"backend": _BACKEND, "precision": order["precision"], "threads": order["threads"]}
    if order["sharing"] == SHARED:
        group = kdx.load_many(order["bundles"], **options, shared_teacher=True)
        return lambda image: [verdict.score for verdict in group(image).values()]
    detectors = [kdx.load(path, **options) for path in order["bundles"].values()]
    return lambda image: [detector(image).score for detector in detectors]


def memory_held(order: dict[str, Any], sharing: str) -> dict[str, float]:
    """Return what a process of its own holds."""
    return dict(run_module("benchmarks.cpu.shared_teacher", json.dumps({**order, "sharing": sharing})))


def hold(order: dict[str, Any]) -> dict[str, float]:
    """Load bundles in this process, judge an image, and return the memory that this took."""
    from kdx.runtime.openvino import backend, compilation, shared_teacher  # noqa: F401 (what both need)

    image = kdx.open_bundle(next(iter(order["bundles"].values()))).golden().images[0]
    compilation.offers_bf16()  # loads the plugin
    before = memory_mb()
    started = time.perf_counter()
    judge = _judge(order)
    judge(image)
    load_s = time.perf_counter() - started
    judge(image)
    after = memory_mb()
    return {**{f"{name}_mb": round(after[name] - before[name], 1) for name in after}, "load_s": round(load_s, 2)}


if __name__ == "__main__":
    print(json.dumps(hold(json.loads(sys.argv[1]))))
