"""Every method on real parts in FP32 and INT8: how it decides, how long it takes, and the training.

    python -m benchmarks accuracy DATA [--work DIR] [--data-sets A,B] [--pairs A,B] [--seeds 0,1]
        [--only accuracy|latency] [--threads 1,2]

DATA has a folder for each data set of ``settings.toml``; the solar cells come from their package
where it has none. Pairs are trained, exported, calibrated and evaluated by what the commands of kdx
call: on the test images, which no choice may be made on, and on held-out good images with drawn
defects. INT8 students are trained from each run. Then the variants of each pair are timed in turns,
beside its graph with every operation in INT8, which no gate has judged: the most that INT8 gains.
Writes ``results/accuracy.json`` after every part. A second call measures what is missing, and
resumes a training that it finds in --work; rows that were measured with other options stay. The
trainings take hours; the latency needs a quiet machine.
"""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.latency import size_of, time_pairs
from benchmarks.accuracy.settings import Key, Settings
from benchmarks.accuracy.training import Training
from benchmarks.commands import parser_of
from benchmarks.results import Result, machine_of
from kd_train.datasets import open_data
from kd_train.datasets.elpv_package import write_mvtec_layout
from kd_train.datasets.magnetic_tile import tiles
from kd_train.training.options import TrainOptions
from kdx.errors import KdxError
from kdx.storage.files import new_folder, sha256_bytes, write_atomic
from kdx.storage.locks import locked

PACKAGES = ("kdx", "numpy", "onnxruntime", "openvino", "timm", "torch")
CELLS, TILES = "elpv_mono", "tiles"
# So many pairs are timed in turns; all their variants are loaded meanwhile.
_TOGETHER = 4
Row = dict[str, Any]


def accuracy_parser(doc: str | None, settings: Path) -> ArgumentParser:
    """Return the options of a benchmark that trains what a settings file names."""

    def names(text: str) -> list[str]:
        return text.split(",")

    def numbers(text: str) -> list[int]:
        return [int(number) for number in names(text)]

    parser = parser_of(doc, runs=300)
    parser.add_argument("data", type=Path, help="Folder with a folder for each data set.")
    work = Path(f"{settings.parent.name}-work")
    parser.add_argument("--work", type=Path, default=work, help="Where runs and bundles are kept.")
    parser.add_argument("--settings", type=Path, default=settings, help="What is trained, a TOML file.")
    parser.add_argument("--data-sets", type=names, default=[], help="Some of them, with commas.")
    parser.add_argument("--pairs", type=names, default=[], help="Some of them, with commas.")
    parser.add_argument("--seeds", type=numbers, default=[])
    parser.add_argument("--only", choices=("accuracy", "latency"), help="One of both.")
    parser.add_argument("--threads", type=numbers, default=[1, 2], help="How many each runtime gets, with commas.")
    parser.add_argument("--out", type=Path, help="The result. Default: results/NAME.json.")
    return parser


def main() -> None:
    """Measure every method."""
    measure("accuracy", __doc__, Path(__file__).with_name("settings.toml"))


def measure(name: str, doc: str | None, settings: Path) -> None:
    """Measure what the result lacks of a benchmark that trains what a settings file names."""
    arguments = accuracy_parser(doc, settings).parse_args()
    benchmark = AccuracyBenchmark(name, arguments)
    if arguments.only != "latency":
        benchmark.run()
    if arguments.only != "accuracy":
        benchmark.time(arguments.threads, arguments.runs)


class AccuracyBenchmark:
    """Trainings whose figures are kept in one result, a row each."""

    def __init__(self, name: str, arguments: Namespace) -> None:
        self.data, self.work = arguments.data.resolve(), arguments.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("KDX_CACHE_DIR", str(self.work / "cache"))
        self.settings = Settings.read(arguments.settings)
        self.asked = self.settings.trainings(arguments.data_sets, arguments.pairs, arguments.seeds)
        decisive = {each: getattr(self.settings, each) for each in ("false_reject_rate", "precisions")}
        self.result = Result.resume(name, {"settings": decisive}, {}, path=arguments.out)
        sets = {key: {"title": each.title, "goals": each.goals} for key, each in self.settings.data_sets.items()}
        self.result.record.update(data_sets=sets, pairs=list(self.settings.pairs))
        # Hours, maybe in several calls on several machines: each row has its own machine.
        self.machine = machine_of(torch.get_num_threads(), PACKAGES)
        self.result.record.setdefault("machine", self.machine)

    def run(self) -> None:
        """Measure what has no row yet; a training that fails does not stop the others."""
        failed = []
        for (data, pair, seed), row in self.missing().items():
            print(f"== {data}, {pair}, seed {seed}", flush=True)
            try:
                for measured in self.training((data, pair, seed)).measure(self.settings.precisions, row):
                    self.keep(measured)
            except KeyboardInterrupt:
                sys.exit("interrupted: the same command continues")
            except KdxError as error:
                failed.append(f"{data}, {pair}, seed {seed}: {error}")
                print(failed[-1], flush=True)
        if failed:
            sys.exit("\n".join(["failed:", *failed]))

    def missing(self) -> dict[Key, Row]:
        """Return what is known of trainings that lack something, as the beginning of their row."""
        known = {_key(row): row for row in self.result.found.get("rows", [])}
        missing = {}
        for (data, pair, seed), asked in self.asked.items():
            row = {"data": data, "pair": pair, "seed": seed, "asked": asked, "cpu": self.machine["cpu"]}
            row = known.get(_key(row), row)
            if set(self.settings.precisions) - {*row.get("test", ()), *row.get("refused", ())}:
                missing[data, pair, seed] = row
        return missing

    def training(self, key: Key) -> Training:
        """Return a training, which continues what was begun with its options."""
        data, _, seed = key
        root, options = self.root(data), {**self.asked[key], "seed": seed, "resume": True}
        if options.get("parts") == TILES:
            options["parts"] = self.write_tiles(root)
        if options.get("teacher_from") in self.settings.pairs:
            options["teacher_from"] = str(self.bundle((data, options["teacher_from"], seed)).with_name("run"))
        return Training(root, TrainOptions(**options), self.bundle(key), self.settings.false_reject_rate)

    def keep(self, *new: Row, **parts: Any) -> None:
        """Write rows and parts at once; another command may have written others meanwhile."""
        path = self.result.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            if path.is_file():
                self.result.record["found"] = Result.load(path).found
            rows = {_key(each): each for each in [*self.result.found.get("rows", []), *new]}
            self.result.put(rows=[rows[key] for key in sorted(rows)], **parts)

    def time(self, threads: list[int], runs: int) -> None:
        """Time a few pairs after the other, with the first seed, where they have no latency yet.

        Pairs that are not measured whole have to wait, because their variants are timed in turns.
        """
        machine = machine_of(max(threads), PACKAGES)
        if self.result.found.get("timed_on") != machine:
            self.keep(latency=[], sizes=[], timed_on=machine)
        for data in dict.fromkeys(key[0] for key in self.asked):
            known = {row["pair"] for row in self.result.found["sizes"] if row["data"] == data}
            keys = {pair: (data, pair, seed) for of, pair, seed in reversed(self.asked) if of == data}
            bundles = {pair: self.bundle(keys[pair]) for pair in self.settings.pairs if pair in keys}
            known.update(pair for pair in bundles if keys[pair] in self.missing())
            pairs = [pair for pair, path in bundles.items() if path.is_dir() and pair not in known]
            for some in (pairs[start : start + _TOGETHER] for start in range(0, len(pairs), _TOGETHER)):
                print(f"== {data}: {', '.join(some)}", flush=True)
                latency = time_pairs({pair: bundles[pair] for pair in some}, threads, runs)
                sizes = [size_of(pair, bundles[pair]) for pair in some]
                new = {"latency": latency, "sizes": sizes}
                found = self.result.found
                self.keep(**{name: [*found[name], *({"data": data, **row} for row in new[name])] for name in new})

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


def _key(row: Row) -> tuple[str, str, int, str]:
    """Return what a row is about; one of other options is another row."""
    return row["data"], row["pair"], row["seed"], json.dumps(row["asked"], sort_keys=True)
