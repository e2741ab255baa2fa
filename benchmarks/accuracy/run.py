"""Accuracy on real parts: trainings of a settings file, from the folder to a calibrated bundle.

    python -m benchmarks accuracy DATA [--work DIR] [--data-sets A,B] [--pairs A,B] [--seeds 0,1]

DATA has a folder for each data set of ``settings.toml``; the solar cells come from their package
where it has none. Pairs are trained, exported, calibrated and evaluated by what the commands of kdx
call: on the test images, which no choice may be made on, and on held-out good images with drawn
defects. Writes ``results/accuracy.json`` after every training. A second call measures what is
missing, and resumes a training that it finds in --work. Rows that were measured with other options
are not mixed with new ones: --replace measures them again. Takes hours.
"""

from __future__ import annotations

import gc
import json
import math
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.settings import Key, Settings
from benchmarks.commands import parser_of
from benchmarks.results import Result, machine_of
from kd_train.data.synthetic import write_synthetic
from kd_train.datasets import open_data
from kd_train.datasets.elpv_package import write_mvtec_layout
from kd_train.datasets.magnetic_tile import tiles
from kd_train.training.options import TrainOptions
from kd_train.training.run_folder import Run
from kd_train.training.train import train
from kdx.cli.output import progress_for
from kdx.errors import KdxError
from kdx.storage.files import new_folder, sha256_bytes, write_atomic
from kdx.storage.locks import locked
from kdx.workflows.calibrate import CalibrationRequest, calibrate_folder
from kdx.workflows.evaluate import EvaluationRequest, evaluate_folder
from kdx.workflows.export import export_run

FIGURES = ("image_auroc", "pixel_auroc", "pro", "false_reject_rate", "detection_rate")
PACKAGES = ("kdx", "numpy", "onnxruntime", "openvino", "timm", "torch")
_CHANGEABLE = {"epochs": int, "teacher_epochs": int, "damage": float}
CELLS, TILES = "elpv_mono", "tiles"
# Named, so that nothing is timed to choose one, and all figures come from the same.
_BACKEND = "openvino"
_PROGRESS = progress_for(as_json=not sys.stderr.isatty())
Row = dict[str, Any]


def accuracy_parser(doc: str | None, settings: Path) -> ArgumentParser:
    """Return the options of a benchmark that trains what a settings file names."""

    def names(text: str) -> list[str]:
        return text.split(",")

    parser = parser_of(doc)
    parser.add_argument("data", type=Path, help="Folder with a folder for each data set.")
    work = Path(f"{settings.parent.name}-work")
    parser.add_argument("--work", type=Path, default=work, help="Where runs and bundles are kept.")
    parser.add_argument("--settings", type=Path, default=settings, help="What is trained, a TOML file.")
    parser.add_argument("--data-sets", type=names, default=[], help="Some of them, with commas.")
    parser.add_argument("--pairs", type=names, default=[], help="Some of them, with commas.")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in names(text)], default=[])
    for name, kind in _CHANGEABLE.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, help="Of every training that has it, not that of the settings.")
    parser.add_argument("--replace", action="store_true", help="Measure rows of other options again.")
    parser.add_argument("--out", type=Path, help="The result. Default: results/NAME.json.")
    return parser


def main() -> None:
    """Measure what is missing."""
    parser = accuracy_parser(__doc__, Path(__file__).with_name("settings.toml"))
    AccuracyBenchmark("accuracy", parser.parse_args()).run()


class AccuracyBenchmark:
    """Trainings whose figures are kept in one result, a row each."""

    def __init__(self, name: str, arguments: Namespace) -> None:
        self.data, self.work = arguments.data.resolve(), arguments.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.settings, self.replace = Settings.read(arguments.settings), arguments.replace
        changed = {each: value for each in _CHANGEABLE if (value := getattr(arguments, each)) is not None}
        self.asked = self.settings.trainings(arguments.data_sets, arguments.pairs, arguments.seeds, changed)
        decisive = {each: getattr(self.settings, each) for each in ("false_reject_rate", "precisions")}
        self.result = Result.resume(name, {"settings": decisive}, {}, path=arguments.out)
        sets = {key: {"title": each.title, "goals": each.goals} for key, each in self.settings.data_sets.items()}
        self.result.record.update(data_sets=sets, pairs=list(self.settings.pairs))
        # Hours, maybe in several calls on several machines: each row has its own machine.
        self.machine = machine_of(torch.get_num_threads(), PACKAGES)
        self.result.record.setdefault("machine", self.machine)

    def run(self) -> None:
        """Measure the trainings that have no row yet; one that fails does not stop the others."""
        failed = []
        for data, pair, seed in self.missing():
            print(f"== {data}, {pair}, seed {seed}", flush=True)
            try:
                row = self.measure((data, pair, seed))
            except KeyboardInterrupt:
                sys.exit("interrupted: the same command continues")
            except KdxError as error:
                failed.append(f"{data}, {pair}, seed {seed}: {error}")
                print(failed[-1], flush=True)
                continue
            about = {"data": data, "pair": pair, "seed": seed, "asked": self.asked[data, pair, seed]}
            self.keep({**about, "cpu": self.machine["cpu"], **row})
        if failed:
            sys.exit("\n".join(["failed:", *failed]))

    def missing(self) -> list[Key]:
        """Return the trainings without a row; one of other options ends the command, or is none."""
        known = {_key(row): row["asked"] for row in self.result.found.get("rows", [])}
        missing = [key for key, asked in self.asked.items() if known.get(key) != asked]
        for key in missing:
            if key in known and not self.replace:
                before, now = known[key], self.asked[key]
                names = sorted(name for name in before | now if before.get(name) != now.get(name))
                said = ", ".join(f"{name} {before.get(name)}, now {now.get(name)}" for name in names)
                sys.exit(
                    f"{key[0]}, {key[1]}, seed {key[2]} was measured with other options ({said}): give --replace to "
                    "measure it again, or another --out"
                )
        return missing

    def measure(self, key: Key) -> Row:
        """Train, or continue what was begun with these options, and return the figures."""
        root = self.root(key[0])
        options = {**self.asked[key], "seed": key[2], "resume": True}
        if options.get("parts") == TILES:
            options["parts"] = self.write_tiles(root)
        return train_and_evaluate(
            root, TrainOptions(**options), self.bundle(key), self.settings.false_reject_rate, self.settings.precisions
        )

    def keep(self, *new: Row, **parts: Any) -> None:
        """Write rows and parts at once; another command may have written others meanwhile."""
        path = self.result.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            if path.is_file():
                self.result.record["found"] = Result.load(path).found
            rows = {_key(each): each for each in [*self.result.found.get("rows", []), *new]}
            self.result.put(rows=[rows[key] for key in sorted(rows)], **parts)

    def bundle(self, key: Key) -> Path:
        """Return where a training's bundle is, or will be: with other options in another folder."""
        decisive = sha256_bytes(json.dumps(self.asked[key], sort_keys=True).encode())
        data, pair, seed = key
        folder: Path = self.work / f"{data}-{pair}-{seed}-{decisive[:8]}"
        return folder / f"{pair}.kdx"

    def root(self, name: str) -> Path:
        """Return a data set's folder; the solar cells are copied out of their package."""
        root: Path = self.data / name
        if name == CELLS and not root.is_dir():
            root = self.work / name
            if not root.is_dir():
                with new_folder(root) as folder:
                    write_mvtec_layout(folder, cell_type="mono")
        return root

    def write_tiles(self, root: Path) -> Path:
        """Write which tile each good image shows: all exposures of one are held out together."""
        path: Path = self.work / "tiles.csv"
        rows = sorted(tiles(open_data(root).good).items())
        write_atomic(path, "".join(f"{image},{tile}\n" for image, tile in rows).encode())
        return path


def train_and_evaluate(
    data: Path, options: TrainOptions, bundle: Path, false_reject_rate: float, precisions: list[str]
) -> Row:
    """Make a calibrated bundle of a data set, or continue to, and return its figures.

    The seconds of a training that was interrupted leave out what its epochs did not take.
    """
    run, drawn = bundle.with_name("run"), bundle.with_name("drawn")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    history = train(data, run, options, _PROGRESS).history
    trained = Run(run)
    seconds = {"teacher": trained.distillation_seconds, "students": sum(epoch.seconds for epoch in history)}
    training = max(time.perf_counter() - started, sum(seconds.values()))
    gc.collect()  # images and features of the training
    started = time.perf_counter()
    _, _, refused = export_run(run, bundle, precisions=tuple(precisions), force=True, progress=_PROGRESS)
    calibrated = calibrate_folder(
        bundle, data, CalibrationRequest(false_reject_rate, backend=_BACKEND), progress=_PROGRESS
    )
    seconds["whole"] = training + time.perf_counter() - started
    config = trained.config
    write_synthetic(trained.held_out_files(), drawn, config.input, seed=options.seed, progress=_PROGRESS)
    present = [precision for precision in precisions if precision not in refused]
    return {
        "test": {precision: evaluated(bundle, data, precision) for precision in present},
        "drawn": {precision: evaluated(bundle, drawn, precision) for precision in present},
        "refused": {**refused, **calibrated.refusals()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "threads": torch.get_num_threads(),
        "images": {"train": len(config.train_images), "held_out": len(config.validation_images)},
        "threshold_images": calibrated.exact.threshold.images,
        "epochs": [config.recipe.teacher_epochs, history[-1].epoch],
        "residuals": {tap: each.good for tap, each in config.distilled.residuals.items()} if config.distilled else {},
        "weights": config.weights,
        "versions": config.versions,
    }


def evaluated(bundle: Path, data: Path, precision: str) -> Row:
    """Return the figures of a bundle on a folder; None stands for what is not defined there."""
    found, _ = evaluate_folder(bundle, data, EvaluationRequest(backend=_BACKEND, precision=precision), _PROGRESS)
    figures = {name: getattr(found, name) for name in FIGURES}
    known = {name: None if value is None or math.isnan(value) else value for name, value in figures.items()}
    return {"good": found.good, "defective": found.defective, **known}


def _key(row: Row) -> Key:
    return row["data"], row["pair"], row["seed"]
