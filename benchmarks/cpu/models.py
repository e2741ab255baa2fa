"""The bundles that ``cpu.py`` times: random teachers, an epoch or a few on a few images; latency depends on neither.

What INT8's gate says does depend on them: after one epoch DSKD's maps moved by 231 % of their range and it was refused
whole; after twelve they move by 3 % and nothing is put back to FP32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.commands import kdx
from benchmarks.timing.turns import Candidate
from kdx.bundle.open import open_bundle
from kdx.bundle.variants import PRECISIONS
from kdx.verification.backend_choice import backend_precision_pairs

# FP16 graphs are for GPUs.
CPU_PRECISIONS = ",".join(precision for precision in PRECISIONS if precision != "fp16")
_FEW = (
    *("--train-fraction", "0.05", "--validation-fraction", "0.05"),
    *("--channels", "3", "--learning-rate", "0.001"),
)
_EPOCHS = {"dskd": 12}


@dataclass(frozen=True)
class Model:
    """What is trained, exported and timed.

    Attributes:
        name: Of its folder.
        method: The method.
        options: Of ``kdx train``.
        camera: The camera's image size, a side; the graph crops where the method does.
        max_batch: Of the graph.
    """

    name: str
    method: str
    options: tuple[str, ...] = ()
    camera: int = 256
    max_batch: int = 32


@dataclass(frozen=True)
class Prepared:
    """A model's run and bundle, and why variants that were asked for are not in it."""

    model: Model
    run: Path
    bundle: Path
    refused: dict[str, str]


def stpm(name: str = "stpm", *, side: int = 256, taps: str = "layer1,layer2,layer3") -> Model:
    """Return STPM as its paper has it, ResNet-18, for another size or fewer taps."""
    options = ("--backbone", "resnet18", "--taps", taps, "--image-size", str(side), "--sigma", "4")
    return Model(name, "stpm", options, camera=side)


def stpm_lite0() -> Model:
    """Return STPM with the small teacher of the demo."""
    taps = "blocks.2,blocks.4,blocks.5"
    options = ("--backbone", "tf_efficientnet_lite0", "--taps", taps, "--image-size", "256", "--sigma", "4")
    return Model("stpm-lite0", "stpm", options)


def methods() -> list[Model]:
    """Return every method with its paper's teachers, for a camera of 256 x 256, and STPM with a small teacher."""
    found = []
    for method in kdx("methods"):
        # Papers that crop take 224 from the middle of 256.
        size = () if method["recipe"]["crop_from"] else ("--image-size", "256")
        found.append(Model(method["name"], method["name"], size))
    index = [model.name for model in found].index("stpm")
    return [*found[:index], stpm(), stpm_lite0(), *found[index + 1 :]]


def prepare(model: Model, data: Path, work: Path, precisions: str = CPU_PRECISIONS) -> Prepared:
    """Train and export, or take what is there."""
    folder = work / model.name
    run, bundle, said = folder / "run", folder / f"{model.name}.kdx", folder / "refused.json"
    if not (run / "last.json").is_file():
        kdx(
            "train", data, "--method", model.method, "--weights", "random", "--out", run, "--epochs",
            str(_EPOCHS.get(model.method, 1)), *_FEW, *model.options, "--force",
        )  # fmt: skip
    if not said.is_file():
        size = f"{model.camera}x{model.camera}"
        # Status 1: a variant was refused; the bundle stands.
        exported = kdx(
            "export", run, "-o", bundle, "--input-size", size, "--precision", precisions, "--max-batch",
            str(model.max_batch), "--force", allow=(0, 1),
        )  # fmt: skip
        if "refused" not in exported:
            raise SystemExit(f"{model.name} cannot be exported: {exported['error']['message']}")
        said.write_text(json.dumps(exported["refused"]), encoding="utf-8")
    return Prepared(model, run, bundle, json.loads(said.read_text(encoding="utf-8")))


def candidates(prepared: Prepared, *, eager: bool = False, only: tuple[tuple[str, str], ...] = ()) -> list[Candidate]:
    """Return a bundle's backends and precisions on this machine, and the eager loop first where that is wanted.

    Args:
        prepared: The bundle.
        eager: Whether the naive loop is timed too.
        only: Backends with precisions; all where none are named.
    """
    bundle = {"bundle": str(prepared.bundle)}
    found = []
    if eager:
        run = {**bundle, "run": str(prepared.run)}
        found.append(Candidate("eager", "benchmarks.peers.loaders:eager_loop", run, group=prepared.model.name))
    for info, precision in backend_precision_pairs(open_bundle(prepared.bundle)):
        if not only or (info.name, precision) in only:
            way = {**bundle, "backend": info.name, "precision": precision}
            name = f"{info.name} {precision}"
            found.append(Candidate(name, "benchmarks.cpu.loaders:bundle", way, group=prepared.model.name))
    return found


def fastest_way(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """Return backend and precision of the fastest row that is no eager loop."""
    best = min((row for row in rows if row["name"] != "eager" and not row["error"]), key=lambda row: row["p50_ms"])
    backend, precision = best["name"].split()
    return backend, precision


def with_cache(candidate: Candidate, cache: Path) -> Candidate:
    """Return a candidate that keeps compiled models and choices in a folder of its own."""
    return replace(candidate, arguments={**candidate.arguments, "cache": str(cache)})
