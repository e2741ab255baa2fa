"""Peers beside kdx: trained, exported and run in their own Python, judged by kdx's evaluation."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.commands import ROOT, environment
from benchmarks.frontier.latency import Variant
from benchmarks.frontier.peer_exports import BUILT, OPTIONS
from benchmarks.frontier.training import figures_of
from benchmarks.results import this_cpu
from benchmarks.timing.process import GoneError, WorkerProcess
from kd_train.datasets import open_data
from kd_train.evaluation.evaluate import evaluate
from kd_train.training.from_options import recipe_of
from kd_train.training.options import TrainOptions
from kd_train.training.training_images import read_training_images
from kdx.calibration.rates import quantile_with_interval
from kdx.calibration.scored_images import ImageScorer
from kdx.decision.answers import AnswerLimits
from kdx.decision.rule import DecisionRule
from kdx.errors import TrainingError
from kdx.folders.data_folder import images_to_evaluate
from kdx.imaging.image_identity import KnownImages
from kdx.imaging.images import InputSpec, encode_png, read_image
from kdx.progress import SILENT
from kdx.runtime.backend import ClosesOnExit, Outputs
from kdx.runtime.detector import Detector
from kdx.runtime.openvino.compilation import offers_bf16

_LOADERS = "benchmarks.frontier.loaders"
_LOADING_S, _JUDGING_S = 600.0, 60.0
_TIMED = 8
Row = dict[str, Any]


@dataclass(frozen=True)
class Runner:
    """How a precision of a peer runs: the export, what loads it, and where it runs.

    ``hint`` is the precision that OpenVINO is asked for; None leaves it to OpenVINO.
    """

    precision: str
    backend: str
    export: str
    loader: str
    hint: str | None = None


# As each library deploys its models. On CPUs that have BF16, OpenVINO computes in BF16 unless asked
# not to, which AnomaVision cannot. The first runner of a precision gives its accuracy and latency.
RUNNERS = {
    "anomalib": (
        Runner("fp32", "openvino", "openvino", "anomalib_openvino", "f32"),
        Runner("fp32", "onnxruntime-cpu", "onnx", "anomalib_onnxruntime"),
        Runner("bf16", "openvino", "openvino", "anomalib_openvino"),
        Runner("int8", "openvino", "int8", "anomalib_openvino"),
    ),
    "anomavision": (
        Runner("fp32", "onnxruntime-cpu", "onnx", "anomavision"),
        Runner("bf16", "openvino", "openvino", "anomavision"),
        Runner("int8", "onnxruntime-cpu", "int8", "anomavision"),
    ),
}


class PeerOptions(msgspec.Struct, forbid_unknown_fields=True):
    """The options of a pair that a peer trains: of its images, and of the peer's own class."""

    peer: str
    model: str
    image_size: int
    validation_fraction: float
    parts: Path | None = None
    arguments: dict[str, Any] = {}
    weights: str = "imagenet"
    epochs: int = 1
    batch_size: int = 32
    seed: int = 0


class PeerTraining:
    """A peer's training on the images that kdx trains on, at the size of kdx's images.

    ``python`` is the interpreter that has the peer. Held-out good images set the threshold for the
    false-reject rate.
    """

    def __init__(self, data: Path, options: PeerOptions, folder: Path, python: str, false_reject_rate: float) -> None:
        self.data, self.options, self.folder, self.python = data, options, folder, python
        self.false_reject_rate = false_reject_rate
        runners: dict[tuple[str, str], Runner] = {}
        for each in RUNNERS[options.peer]:  # what OpenVINO chooses is FP32 on other CPUs
            precision = each.precision if offers_bf16() else each.precision.replace("bf16", "fp32")
            runners.setdefault((precision, each.backend), replace(each, precision=precision))
        self.runners = list(runners.values())

    def measure(self, variants: list[str], row: Row) -> Iterator[Row]:
        """Yield the row; of random weights nothing but the latency means anything.

        What this CPU cannot run is ``unable``, apart from what no other could. Figures name their
        CPU where it is another than that of the row.
        """
        exported, images = self.exported(), {name: len(paths) for name, paths in self._images.items()}
        row = {
            "drawn": {}, **row, "epochs": [0, self.options.epochs], "images": images,
            **{part: dict(row.get(part, {})) for part in ("test", "refused", "unable")},
            **{name: exported[name] for name in ("seconds", "threads", "facts", "versions")},
        }  # fmt: skip
        cpu = this_cpu()
        for variant in (each for each in variants if each not in {**row["test"], **row["refused"]}):
            row["unable"].pop(variant, None)
            runner = next((each for each in self.runners if each.precision == variant), None)
            error = exported["exports"][runner.export].get("error") if runner else None
            if error or self.options.weights == "random":
                row["refused"][variant] = error or "random weights: latency alone"
            elif runner is None:
                row["unable"][variant] = {"reason": "no BF16", "on": cpu}
            else:
                print(f"  {variant} in {runner.backend}", flush=True)
                try:
                    on = {} if cpu.items() <= row.items() else {"on": cpu}
                    figures = self._evaluated(self._variant(runner))
                    row["test"][variant] = {**figures, "backend": runner.backend, **on}
                except GoneError as gone:
                    row["unable"][variant] = {"reason": f"it does not run: {gone}", "on": cpu}
        yield row

    def exported(self) -> Row:
        """Return what the peer's process wrote of its exports, after training if it is missing."""
        file, threads = self.folder / "exports.json", torch.get_num_threads()
        if not file.is_file():
            started = time.perf_counter()  # as kdx's, which reads the images too
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_images()
            options = {**msgspec.structs.asdict(self.options), "threads": threads}
            (self.folder / OPTIONS).write_bytes(msgspec.json.encode(options, enc_hook=str))
            log = self.folder / "log.txt"
            command = [self.python, "-W", "ignore", "-m", "benchmarks.frontier.peer_exports", str(self.folder)]
            paths = {**environment(threads), "PYTHONPATH": str(ROOT)}
            with log.open("w", encoding="utf-8") as said:
                done = subprocess.run(command, stdout=said, stderr=said, check=False, cwd=self.folder, env=paths)
            if done.returncode:
                last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
                raise TrainingError(f"{self.options.peer} ended with status {done.returncode}: {' '.join(last)[:300]}")
            built = msgspec.json.decode((self.folder / BUILT).read_bytes())
            seconds = {"students": round(built["seconds"], 1), "whole": round(time.perf_counter() - started, 1)}
            file.write_bytes(msgspec.json.encode({**built, "seconds": seconds, "threads": threads}))
        return msgspec.json.decode(file.read_bytes(), type=Row)

    def variants(self) -> list[Variant]:
        """Return what is timed, as far as it was exported."""
        exports = self.exported()["exports"]
        return [self._variant(runner) for runner in self.runners if "path" in exports[runner.export]]

    def size(self) -> Row:
        """Return the bytes of each precision's files, with weights that lie beside a graph."""
        exports, side = self.exported()["exports"], self.options.image_size
        paths = {each.precision: exports[each.export].get("path") for each in reversed(self.runners)}
        sizes = {name: _bytes(Path(path)) for name, path in paths.items() if path}
        return {"graph_bytes": sizes, "images": [side, side]}

    def _variant(self, runner: Runner) -> Variant:
        model = self.exported()["exports"][runner.export]["path"]
        images = self.folder / "timed.npy"
        if not images.is_file():
            np.save(images, np.stack([read_image(path, self._spec) for path in self._images["held_out"][:_TIMED]]))
        return Variant(
            runner.precision, f"{_LOADERS}:{runner.loader}", {"model": model, "precision": runner.hint}, images,
            (runner.backend,), (self.python,),
        )  # fmt: skip

    @property
    def _spec(self) -> InputSpec:
        return InputSpec(height=self.options.image_size, width=self.options.image_size, fixed_size=False)

    @cached_property
    def _images(self) -> dict[str, list[Path]]:
        """The images to train on and the held-out ones: kdx's own, by the same options and seed."""
        given = self.options
        options = TrainOptions(
            image_size=given.image_size, validation_fraction=given.validation_fraction, parts=given.parts,
            seed=given.seed, workers=0,
        )  # fmt: skip
        found = read_training_images(self.data, options, recipe_of(options), SILENT)
        sides = {"train": found.trained, "held_out": found.held_out}
        return {name: [record.path for record in records] for name, records in sides.items()}

    def _write_images(self) -> None:
        """Write the good images as kdx reads them: a peer's own resizing has nothing left to do."""
        for name, paths in self._images.items():
            shutil.rmtree(self.folder / name, ignore_errors=True)  # of a call that was interrupted
            (self.folder / name).mkdir()
            for index, path in enumerate(paths):
                (self.folder / name / f"{index:05d}.png").write_bytes(encode_png(read_image(path, self._spec)))

    def _evaluated(self, variant: Variant) -> Row:
        """Return the figures on test images, at the threshold that held-out good images set."""
        folder, limits = open_data(self.data), AnswerLimits(-math.inf, -math.inf)
        with TemporaryDirectory() as scratch, PeerBackend(variant, Path(scratch)) as backend:
            detector = Detector(backend, self._spec, DecisionRule(answer_limits=limits), max_batch=8)
            held_out = ImageScorer(detector, KnownImages()).score(self._images["held_out"], "good")
            detector.threshold, _ = quantile_with_interval(np.array(held_out.scores), self.false_reject_rate)
            images = images_to_evaluate(folder)
            return figures_of(evaluate(detector, folder.root, images, unused_masks=folder.unused_masks))


class PeerBackend(ClosesOnExit):
    """A peer's process as a backend of kdx."""

    name = "peer"

    def __init__(self, variant: Variant, folder: Path) -> None:
        threads = torch.get_num_threads()
        self._images, self._found = folder / "images.npy", folder / "found.npz"
        log, variables = folder / "log.txt", environment(threads)
        self._process = WorkerProcess("benchmarks.timing.worker", log, variables, variant.python)
        order = {"loader": variant.loader, "images": str(variant.images), "batch": 1}
        self._ask({**order, "arguments": {"threads": threads, **variant.arguments}}, _LOADING_S)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Judge images ``(N, H, W, 3)`` one by one."""
        np.save(self._images, images)
        self._ask({"judge": str(self._images), "found": str(self._found)}, _JUDGING_S * len(images))
        with np.load(self._found) as found:
            return Outputs(found["maps"], found["scores"])

    def _ask(self, message: Row, limit_s: float) -> None:
        self._process.tell(message)
        self._process.hear(limit_s)

    def close(self) -> None:
        """End the process."""
        self._process.close()


def _bytes(path: Path) -> int:
    """Return the size of a graph with the weights that lie beside it, under its name."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.stem}.*"))
