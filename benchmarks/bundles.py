"""The bundles that benchmarks time: random teachers, few images and epochs; latency needs no more.

What the gate says of an INT8 graph does depend on them: after one epoch DSKD's maps moved by 231 %
of their range, and the graph was refused; after twelve they move by 3 % and no layer returns to
FP32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import kdx
from benchmarks.timing.turns import Candidate
from kdx.bundle.open import open_bundle
from kdx.bundle.variants import PRECISIONS
from kdx.verification.backend_choice import backend_precision_pairs

# FP16 graphs are for GPUs.
CPU_PRECISIONS = ",".join(precision for precision in PRECISIONS if precision != "fp16")
RESNET18_TAPS = "layer1,layer2,layer3"
_FEW = ["--train-fraction", "0.05", "--validation-fraction", "0.05", "--channels", "3", "--learning-rate", "0.001"]
_EPOCHS = {"dskd": 12}


@dataclass(frozen=True)
class BenchmarkModel:
    """What is trained, exported and timed; the name is that of its folder.

    ``options`` are further ones of ``kdx train``, ``camera`` the side of the camera's images in
    pixels, ``precisions`` those to export, with commas between them.
    """

    name: str
    method: str = "stpm"
    options: tuple[str, ...] = ()
    camera: int = 256
    max_batch: int = 32
    precisions: str = CPU_PRECISIONS


@dataclass(frozen=True)
class Prepared:
    """A model's run and bundle, and why precisions are not in it."""

    model: BenchmarkModel
    run: Path
    bundle: Path
    refused: dict[str, str]


def stpm(
    name: str = "stpm", *, side: int = 256, taps: str = RESNET18_TAPS, teacher: str = "resnet18"
) -> BenchmarkModel:
    """Return STPM, by default as its paper has it, for square images."""
    options = ("--backbone", teacher, "--taps", taps, "--image-size", str(side), "--sigma", "4")
    return BenchmarkModel(name, options=options, camera=side)


def stpm_lite0(name: str = "stpm-lite0", *, side: int = 256) -> BenchmarkModel:
    """Return STPM with the small teacher of the demo."""
    return stpm(name, side=side, taps="blocks.2,blocks.4,blocks.5", teacher="tf_efficientnet_lite0")


def method_models() -> list[BenchmarkModel]:
    """Return every method with its paper's teachers, and STPM with a small one, for 256 × 256."""
    found = []
    for method in kdx("methods"):
        # Papers that crop take 224 from the middle of 256.
        size = () if method["recipe"]["crop_from"] else ("--image-size", "256")
        model = BenchmarkModel(method["name"], method["name"], size)
        found += [stpm(), stpm_lite0()] if model.name == "stpm" else [model]
    return found


def prepare_bundle(model: BenchmarkModel, data: Path, work: Path) -> Prepared:
    """Train and export a model, or take what was prepared before in the same folder."""
    folder = work / model.name
    run, bundle, kept = folder / "run", folder / f"{model.name}.kdx", folder / "exported.json"
    if not (run / "last.json").is_file():
        kdx(
            "train", data, "--method", model.method, "--weights", "random", "--out", run, "--epochs",
            str(_EPOCHS.get(model.method, 1)), *_FEW, *model.options, "--force",
        )  # fmt: skip
    if not kept.is_file():
        size = f"{model.camera}x{model.camera}"
        # Status 1: a precision was refused; the bundle stands.
        exported = kdx(
            "export", run, "-o", bundle, "--input-size", size, "--precision", model.precisions, "--max-batch",
            str(model.max_batch), "--force", allow=(0, 1),
        )  # fmt: skip
        if "refused" not in exported:
            raise SystemExit(f"{model.name} was not exported: {exported['error']['message']}")
        kept.write_text(json.dumps(exported["refused"]), encoding="utf-8")
    return Prepared(model, run, bundle, json.loads(kept.read_text(encoding="utf-8")))


def candidates(prepared: Prepared, *, eager: bool = False, only: tuple[tuple[str, str], ...] = ()) -> list[Candidate]:
    """Return a bundle's backends and precisions here, or ``only`` some; ``eager`` adds its loop."""
    bundle = {"bundle": str(prepared.bundle)}
    found = []
    if eager:
        run = {**bundle, "run": str(prepared.run)}
        found.append(Candidate("eager", "benchmarks.timing.loaders:eager_loop", run))
    for info, precision in backend_precision_pairs(open_bundle(prepared.bundle)):
        if not only or (info.name, precision) in only:
            arguments = {**bundle, "backend": info.name, "precision": precision}
            found.append(Candidate(f"{info.name} {precision}", "benchmarks.timing.loaders:bundle", arguments))
    return found
