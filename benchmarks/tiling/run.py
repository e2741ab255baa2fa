"""What large frames cost, and whether their tiles show: agreement, seams, time and memory.

    python -m benchmarks tiling DATA --work DIR

Frames are real images, mirrored until they fill 2048 × 2448; a pair is trained on their tiles. Then
frames of 768 × 1024 are judged in tiles and whole, by eager PyTorch; real defects, pasted at many
places across seams, are compared with the same in the middle of a tile; frames of 2048 × 2448 go
through the bundle, with several numbers of tiles at once, and through the same networks whole.
Writes ``results/tiling.json``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.commands import kdx as command
from benchmarks.commands import parser_of
from benchmarks.results import Result, machine_of
from benchmarks.timing.turns import Candidate, time_in_turns
from kd_export.graph import FusedDetector
from kd_export.onnx.onnx_export import export_onnx
from kd_train.training.run_folder import Run
from kd_train.training.tiled_detector import fuse_tiles
from kd_train.training.trained_pair import load_pair
from kdx.bundle.open import open_bundle
from kdx.imaging.images import read_image
from kdx.imaging.masks import read_mask
from kdx.imaging.tiling import Stitcher, TileRequest
from kdx.runtime.tiled import Tiled
from kdx.runtime.torch.eager import TorchEager

FRAME, SMALL, TILE = (2048, 2448), (768, 1024), 256
_TRAIN, _TEST, _EPOCHS = 8, 4, 4
_BATCHES = (1, 4, 8, 16, 32)
_MEASURED = (("onnxruntime-cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))
_FRAMES, _DEFECTS, _MOVES = 5, 6, 12
_PACKAGES = ("kdx", "numpy", "onnxruntime", "openvino", "torch")


def main() -> None:
    """Measure and write the result."""
    parser = parser_of(__doc__, "data", threads=2)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--taps", default="blocks.1,blocks.2", help="Shallow ones: deep ones see more than a tile.")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    prepare(arguments.data, work, arguments.backbone, arguments.taps)
    settings = {"backbone": arguments.backbone, "taps": arguments.taps, "frame": FRAME, "tile": TILE}
    identity = {"machine": machine_of(arguments.threads, _PACKAGES), "settings": settings}
    result = Result.resume("tiling", identity, {"frames": _FRAMES, "defects": _DEFECTS, "images": _TEST})
    seams = Seams(arguments.data, work)
    plan = msgspec.to_builtins(open_bundle(work / "tile.kdx").manifest.tiling)
    result.put(plan=plan, agreement=seams.agreement(), sweep=seams.sweep(), rows=rows(work, arguments.threads))


def grow(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a frame filled with a real image, mirrored so that no new edge appears."""
    missing = [(0, max(0, large - small)) for large, small in zip(size, image.shape, strict=True)]
    return np.pad(image, missing, "symmetric")[: size[0], : size[1]]


def _grey(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("L"))


def prepare(data: Path, work: Path, backbone: str, taps: str) -> None:
    """Train on tiles of large frames and export, unless that is done already."""
    frames, run = work / "frames", work / "run"
    if not frames.exists():
        for name, count in (("train/good", _TRAIN), ("test/good", _TEST)):
            (frames / name).mkdir(parents=True)
            for path in sorted((data / name).iterdir())[:count]:
                Image.fromarray(grow(_grey(path), FRAME)).save(frames / name / f"{path.stem}.png")
    if not run.exists():
        options = ("--tile", str(TILE), "--backbone", backbone, "--taps", taps, "--epochs", str(_EPOCHS))
        command("train", frames, "--out", run, *options, "--device", "cpu")
    if not (work / "tile.kdx").exists():
        command("export", run, "-o", work / "tile.kdx", "--precision", "fp32,bf16,int8", allow=(0, 1))
    if not (work / "whole.onnx").exists():
        trained = Run(run)
        export_onnx(whole_detector(trained, FRAME), work / "whole.onnx", max_batch=1, metadata={})


def whole_detector(run: Any, size: tuple[int, int]) -> FusedDetector:
    """Return the trained networks for a whole frame: what tiles are instead of."""
    pair, config = load_pair(run)[0], run.config
    return FusedDetector(pair, config.pair_spec, run.input_for(size), size, config.mean, config.std)


def defects_of(data: Path) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yield pixels and masks, cut out, of real defects no larger than a third of a tile."""
    for mask_path in sorted((data / "ground_truth").rglob("*.png")):
        kind, name = mask_path.parent.name, mask_path.name.removesuffix("_mask.png")
        image = next((data / "test" / kind).glob(f"{name}.*"), None)
        mask = read_mask(mask_path)
        where = np.argwhere(mask)
        if image is None or not len(where):
            continue
        (top, left), (bottom, right) = where.min(0), where.max(0) + 1
        if 8 < max(bottom - top, right - left) < TILE // 3:
            yield _grey(image)[top:bottom, left:right], mask[top:bottom, left:right]


class Seams:
    """Compares tiles with the whole frame, in eager PyTorch, as the pair was trained."""

    def __init__(self, data: Path, work: Path) -> None:
        run = Run(work / "run")
        self.detector, self.plan = fuse_tiles(run, load_pair(run)[0], TileRequest(frame=SMALL, tile=TILE))
        self.whole = whole_detector(run, SMALL)
        self.images = [grow(_grey(p), SMALL) for p in sorted((data / "test/good").iterdir())[-_TEST:]]
        defects = list(defects_of(data))
        self.defects = defects[:: max(1, len(defects) // _DEFECTS)][:_DEFECTS]

    def tiled(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the map of a frame, judged in tiles."""
        backend = Tiled(TorchEager(self.detector), Stitcher(self.plan, (TILE, TILE), self.detector.size))
        return backend.run(frame[None, :, :, None]).maps[0]

    def run(self, detector: Any, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
        """Return map and score of an image that fits a detector."""
        with torch.inference_mode():
            maps, scores = detector(torch.from_numpy(np.ascontiguousarray(image[None, :, :, None])))
        return maps[0].numpy(), float(scores[0, 0])

    def agreement(self) -> dict[str, Any]:
        """Return how far tiles' maps differ from the whole frame's, relative to its range."""
        worst, scores = [], []
        for frame in self.images:
            expected, score = self.run(self.whole, frame)
            found = self.tiled(frame)
            worst.append(float((np.abs(found - expected) / np.ptp(expected)).max()))
            scores.append(abs(float(found.max()) / score - 1))
        return {
            "frame": SMALL, "tiles": self.plan.count, "halo": self.plan.halo, "overlap": self.plan.overlap,
            "images": len(self.images), "map_max": max(worst), "score_max": max(scores),
        }  # fmt: skip

    def sweep(self) -> dict[str, Any]:
        """Return how far a defect's score at a seam differs from that in the middle of a tile."""
        step = max(self.detector.strides)
        differences = []
        stride = self.plan.columns[1] - self.plan.columns[0]
        for number, (pixels, mask) in enumerate(self.defects):
            image = self.images[number % len(self.images)]
            height, width = mask.shape
            top = SMALL[0] // 2 - height // 2
            for move in range(_MOVES):
                left = TILE // 2 + move * stride // _MOVES
                frame = image.copy()
                frame[top : top + height, left : left + width][mask] = pixels[mask]
                row = (top + height // 2 - TILE // 2) // step * step
                column = max(0, left + width // 2 - TILE // 2) // step * step
                alone, _ = self.run(self.detector, frame[row : row + TILE, column : column + TILE])
                middle = alone[top - row : top - row + height, left - column : left - column + width].max()
                found = self.tiled(frame)[top : top + height, left : left + width].max()
                differences.append(abs(float(found) / float(middle) - 1))
        return {"defects": len(self.defects), "places": len(differences), "score_max": max(differences)}


def rows(work: Path, threads: int) -> list[dict[str, Any]]:
    """Return time and memory of every backend, each in a process of its own."""
    manifest = open_bundle(work / "tile.kdx").manifest
    frames = np.stack([read_image(path, manifest.camera) for path in sorted((work / "frames/test/good").iterdir())])
    jobs = [(*each, batch) for each in _MEASURED if each[1] in manifest.precisions for batch in _BATCHES]
    found = []
    for backend, precision, batch in (*jobs, ("openvino", "fp32", None)):
        arguments = {"work": str(work), "backend": backend, "precision": precision, "batch": batch}
        loader = f"benchmarks.timing.loaders:{'whole' if batch is None else 'tiled'}"
        candidate = Candidate(f"{backend} {precision} {batch}", loader, arguments)
        (row,) = time_in_turns([candidate], frames, threads=threads, runs=_FRAMES, rounds=1, warm_up=0)
        figures = {name: getattr(row, name) for name in ("p50_ms", "max_ms", "peak_memory_mb", "error")}
        found.append({"backend": backend, "precision": precision, "tile_batch": batch, **figures})
        print(found[-1], flush=True)
    return found
