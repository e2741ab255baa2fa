"""One training of a settings file: its bundles in FP32 and INT8, and how they decide."""

from __future__ import annotations

import gc
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.frontier.latency import Variant, bundle_variants, size_of
from benchmarks.frontier.settings import STUDENTS
from kd_train.data.synthetic import write_synthetic
from kd_train.evaluation.evaluate import Evaluation
from kd_train.training.options import TrainOptions
from kd_train.training.quantization import quantize_run
from kd_train.training.run_folder import Run
from kd_train.training.run_images import held_out_files
from kd_train.training.train import train
from kdx.bundle.bundle import Bundle
from kdx.bundle.open import open_bundle
from kdx.cli.output import progress_for
from kdx.storage.files import new_folder
from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder
from kdx.workflows.evaluate import EvaluationRequest, evaluate_folder
from kdx.workflows.export import export_run

FIGURES = ("image_auroc", "pixel_auroc", "pro", "false_reject_rate", "detection_rate")
# Named, so that nothing is timed to choose one, and all figures come from the same.
_BACKEND = "openvino"
_PROGRESS = progress_for(as_json=not sys.stderr.isatty())
Row = dict[str, Any]


class Training:
    """A training of a data set, continued where an earlier call stopped.

    What else is made is beside ``bundle``, which is calibrated for the false-reject rate.
    """

    def __init__(self, data: Path, options: TrainOptions, bundle: Path, false_reject_rate: float) -> None:
        self.data, self.options, self.bundle = data, options, bundle
        self.request = CalibrationRequest(false_reject_rate, backend=_BACKEND)
        self.run, self.drawn = bundle.with_name("run"), bundle.with_name("drawn")
        self.students = bundle.with_name(f"{bundle.stem}-{STUDENTS}.kdx")

    def measure(self, variants: list[str], row: Row) -> Iterator[Row]:
        """Yield the row of a training after each of its parts, beginning with what is known of it.

        The seconds of a training that was interrupted leave out what its epochs did not take.
        """
        if "test" not in row:
            yield (row := {**row, **self._trained([each for each in variants if each != STUDENTS])})
        if STUDENTS in variants and STUDENTS not in {**row["test"], **row["refused"]}:
            yield self._with_students(row)

    def variants(self) -> list[Variant]:
        """Return what is timed."""
        return bundle_variants(self.bundle, self.students)

    def size(self) -> Row:
        """Return what the bundle takes on the disk and in memory."""
        return size_of(self.bundle)

    def _trained(self, precisions: list[str]) -> Row:
        """Train, and measure FP32 and INT8 after the training."""
        self.bundle.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        history = train(self.data, self.run, self.options, _PROGRESS).history
        run = Run(self.run)
        config = run.config
        seconds = {"teacher": run.distillation_seconds, "students": sum(epoch.seconds for epoch in history)}
        training = max(time.perf_counter() - started, sum(seconds.values()))
        gc.collect()  # images and features of the training
        started = time.perf_counter()
        refused = self._export(self.run, self.bundle, precisions)
        seconds["whole"] = training + time.perf_counter() - started
        write_synthetic(held_out_files(run), self.drawn, config.input, seed=config.seed, progress=_PROGRESS)
        return {
            **self._evaluated(self.bundle, {each: each for each in precisions if each not in refused}),
            "refused": refused, "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "threads": torch.get_num_threads(),
            "images": {"train": len(config.train_images), "held_out": len(config.validation_images)},
            "epochs": [config.recipe.teacher_epochs, history[-1].epoch], "weights": config.weights,
            "versions": config.versions,
        }  # fmt: skip

    def _with_students(self, row: Row) -> Row:
        """Train INT8 students in a copy of the run, and add their figures to the row.

        The run itself stays without them, so that INT8 after the training can be made of it again.
        """
        copy = self.bundle.with_name("students")
        if not copy.is_dir():
            with new_folder(copy) as made:
                shutil.copytree(self.run, made, dirs_exist_ok=True, copy_function=os.link)
        started = time.perf_counter()
        options = TrainOptions(resume=True, workers=self.options.workers)
        history = quantize_run(copy, options, progress=_PROGRESS).history
        took = max(time.perf_counter() - started, sum(epoch.seconds for epoch in history))
        refused = self._export(copy, self.students, ["fp32", "int8"])
        reasons = {STUDENTS: refused["int8"]} if refused else {}
        found = {} if refused else self._evaluated(self.students, {"fp32": "fp32", STUDENTS: "int8"})
        parts = {name: {**row[name], STUDENTS: found[name][STUDENTS]} for name in found}
        seconds = {**row["seconds"], "quantize": round(took, 1)}
        return {**row, **parts, "refused": {**row["refused"], **reasons}, "seconds": seconds}

    def _export(self, run: Path, bundle: Path, precisions: list[str]) -> dict[str, str]:
        """Make a calibrated bundle, and return why a precision was refused."""
        _, _, refused = export_run(run, bundle, precisions=tuple(precisions), force=True, progress=_PROGRESS)
        calibrated = calibrate_folder(bundle, self.data, self.request, progress=_PROGRESS)
        # Reasons name the run; the folder that it is in says nothing to a reader of the result.
        reasons = {**refused, **calibrated.refusals()}
        return {precision: reason.replace(f"{run.parent}{os.sep}", "") for precision, reason in reasons.items()}

    def _evaluated(self, path: Path, precisions: dict[str, str]) -> Row:
        """Return the figures of a bundle's precisions on both sets of images, FP32 first."""
        bundle = open_bundle(path)
        found: Row = {"test": {}, "drawn": {}}
        for name, data in (("test", self.data), ("drawn", self.drawn)):
            rejected: dict[str, set[str]] = {}
            for variant, precision in precisions.items():
                figures, rejected[variant] = _figures(bundle, data, precision)
                differ = len(rejected[variant] ^ rejected["fp32"])
                kept = bundle.manifest.variants[precision].kept if precision != "fp32" else []
                found[name][variant] = {**figures, "differ": differ, "kept": len(kept)}
        return found


def _figures(bundle: Bundle, data: Path, precision: str) -> tuple[Row, set[str]]:
    """Return the figures of a bundle on a folder, and the names of the rejected images."""
    found, _ = evaluate_folder(bundle.path, data, EvaluationRequest(backend=_BACKEND, precision=precision), _PROGRESS)
    threshold = bundle.manifest.threshold_of(precision, _BACKEND)
    rejected = {name for name, score in found.scores.items() if threshold and score > threshold.score}
    return figures_of(found), rejected


def figures_of(found: Evaluation) -> Row:
    """Return the figures of an evaluation; None stands for one that is not defined."""
    figures = {name: getattr(found, name) for name in FIGURES}
    known = {name: None if value is None or math.isnan(value) else value for name, value in figures.items()}
    return {"good": found.good, "defective": found.defective, **known}
