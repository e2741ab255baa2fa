"""Accuracy against latency of kdx and of what others use for the same task, on real parts.

    python -m benchmarks frontier DATA --anomalib PYTHON --anomavision PYTHON [--work DIR]
        [--data-sets A,B] [--pairs A,B] [--seeds 0,1] [--only accuracy|latency] [--threads 1,2]
    python -m benchmarks accuracy DATA [...]
    python -m benchmarks compact DATA [...]

Each command trains what ``NAME.toml`` of this folder names: the peers' models; every method of kdx
in FP32 and INT8; kdx's compact pairs. DATA has a folder for each data set; the solar cells come
from their package where it has none. Pairs are trained, exported, calibrated and evaluated by what
the commands of kdx call: on the test images, and on held-out good images with drawn defects. One
choice was made on test images, what gives kdx's score of two data sets: compact.toml says which.
Peers train on the same images and run their own exports, in their own Python, because they need
other versions of packages; kdx's evaluation judges them, at a threshold from the same held-out
images. Then all variants of a data set's pairs are timed in turns.

Writes ``results/NAME.json`` after every part, and a figure for each data set whose points are
timed. A second call measures what is missing, and resumes a training of kdx that it finds in
--work; rows of other options stay. What a peer could not run is tried again on another CPU. Before
a latency is replaced, the file is copied to ``FILE.old``. The latency needs a quiet machine.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch

from benchmarks.commands import RESULTS, parser_of
from benchmarks.frontier.latency import time_variants
from benchmarks.frontier.peers import RUNNERS, PeerOptions, PeerTraining
from benchmarks.frontier.plot import plot_frontiers
from benchmarks.frontier.points import all_points
from benchmarks.frontier.settings import Key, Settings
from benchmarks.frontier.training import Training
from benchmarks.results import Result, machine_of, this_cpu
from kd_train.datasets import open_data
from kd_train.datasets.elpv_package import write_mvtec_layout
from kd_train.datasets.magnetic_tile import tiles
from kd_train.training.options import TrainOptions
from kdx.errors import KdxError
from kdx.storage.files import new_folder, sha256_bytes, write_atomic
from kdx.storage.locks import locked

PACKAGES = ("kdx", "numpy", "onnxruntime", "openvino", "timm", "torch")
CELLS, TILES = "elpv_mono", "tiles"
# By what a row of each part is the same one, measured again, beside its data set, pair and options.
_KEYS = {"rows": ("seed",), "sizes": (), "latency": ("precision", "backend", "threads")}
Row = dict[str, Any]


def options_parser(name: str) -> ArgumentParser:
    """Return the options of a benchmark that trains what a settings file names."""

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    names = methodcaller("split", ",")
    parser, settings = parser_of(__doc__, runs=300), Path(__file__).with_name(f"{name}.toml")
    parser.add_argument("data", type=Path, help="Folder with a folder for each data set.")
    parser.add_argument("--work", type=Path, default=Path(f"{name}-work"), help="Where runs and bundles are kept.")
    parser.add_argument("--settings", type=Path, default=settings, help="What is trained, a TOML file.")
    parser.add_argument("--data-sets", type=names, default=[], help="Some of them, with commas.")
    parser.add_argument("--pairs", type=names, default=[], help="Some of them, with commas.")
    parser.add_argument("--seeds", type=numbers, default=[])
    parser.add_argument("--only", choices=("accuracy", "latency"), help="One of both.")
    parser.add_argument("--threads", type=numbers, default=[1, 2], help="How many each runtime gets, with commas.")
    parser.add_argument("--again", action="store_true", help="Time what was timed, try peers that fail on this CPU.")
    parser.add_argument("--out", type=Path, help="The result. Default: results/NAME.json.")
    for peer in RUNNERS:
        parser.add_argument(f"--{peer}", type=Path, metavar="PYTHON", help=f"The interpreter that has {peer}.")
    return parser


def main() -> None:
    """Measure what the result lacks, and draw the frontiers."""
    arguments = options_parser(name := sys.argv[0].split()[-1]).parse_args()
    benchmark = FrontierBenchmark(name, arguments)
    if arguments.only != "latency":
        benchmark.run(again=arguments.again)
    if arguments.only != "accuracy":
        benchmark.time(arguments.threads, arguments.runs, again=arguments.again)
    plot_frontiers(all_points(), RESULTS)


class FrontierBenchmark:
    """Trainings of kdx and of peers whose figures are kept in one result, a row each."""

    def __init__(self, name: str, arguments: Namespace) -> None:
        self.data, self.work = arguments.data.resolve(), arguments.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("KDX_CACHE_DIR", str(self.work / "cache"))
        self.settings = Settings.read(arguments.settings)
        self.asked = self.settings.trainings(arguments.data_sets, arguments.pairs, arguments.seeds)
        self.pythons = {peer: getattr(arguments, peer) for peer in RUNNERS}
        decisive = {each: getattr(self.settings, each) for each in ("false_reject_rate", "precisions")}
        self.result = Result.resume(name, {"settings": decisive}, {}, path=arguments.out)
        sets = {key: {"title": each.title, "goals": each.goals} for key, each in self.settings.data_sets.items()}
        self.result.record.update(data_sets=sets, pairs=list(self.settings.pairs))
        # Hours, maybe in several calls on several machines: each row has its own machine.
        self.cpu, self.copied = this_cpu(), False
        self.result.record.setdefault("machine", machine_of(torch.get_num_threads(), PACKAGES))

    def run(self, *, again: bool = False) -> None:
        """Measure what has no row yet; a training that fails does not stop the others."""
        failed = []
        for (data, pair, seed), row in self.missing(retry=True, again=again).items():
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

    def missing(self, *, retry: bool = False, again: bool = False) -> dict[Key, Row]:
        """Return what is known of trainings that lack something, as the beginning of their row.

        With ``retry``, what another CPU could not run is missing; with ``again``, on this one too.
        """
        known = {_key("rows", row): row for row in self.result.found.get("rows", [])}
        missing = {}
        for (data, pair, seed), asked in self.asked.items():
            row = {"data": data, "pair": pair, "seed": seed, "asked": asked, **self.cpu}
            row = known.get(_key("rows", row), row)
            unable = {name for name, why in row.get("unable", {}).items() if not retry or self.cpu == why["on"]}
            tried = {*row.get("test", ()), *row.get("refused", ()), *(() if again else unable)}
            if set(self.settings.precisions) - tried:
                missing[data, pair, seed] = row
        return missing

    def training(self, key: Key) -> Training | PeerTraining:
        """Return a training of kdx or of a peer, which continues what was begun."""
        data, pair, seed = key
        root, options, bundle = self.root(data), {**self.asked[key], "seed": seed}, self.bundle(key)
        if options.get("parts") == TILES:
            options["parts"] = self.write_tiles(root)
        if "peer" in options:
            given = PeerOptions(**options)
            python = self.pythons[given.peer]
            if python is None:
                sys.exit(f"{pair} needs --{given.peer} PYTHON, an interpreter that has the package {given.peer}")
            # Not resolved: the link in a virtual environment leads out of it.
            return PeerTraining(root, given, bundle, str(python.absolute()), self.settings.false_reject_rate)
        if options.get("teacher_from") in self.settings.pairs:
            options["teacher_from"] = str(self.bundle((data, options["teacher_from"], seed)).with_name("run"))
        return Training(root, TrainOptions(**options, resume=True), bundle, self.settings.false_reject_rate)

    def keep(self, *new: Row, **parts: list[Row]) -> None:
        """Write rows in the place of those they repeat; another command may have written others.

        A latency that is replaced stays in ``FILE.old``, the file as it was before this command.
        """
        path = self.result.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent):
            if path.is_file():
                self.result.record["found"] = Result.load(path).found
            found = {name: {_key(name, row): row for row in self.result.found.get(name, [])} for name in _KEYS}
            added = {name: {_key(name, row): row for row in rows} for name, rows in {"rows": new, **parts}.items()}
            if not self.copied and found["latency"].keys() & added.get("latency", {}).keys():
                self.copied = bool(shutil.copyfile(path, path.with_name(f"{path.name}.old")))
                print(f"timed again: the old file is {path.name}.old", flush=True)
            merged = {name: {**found[name], **rows} for name, rows in added.items()}
            merged["rows"] = dict(sorted(merged["rows"].items()))
            self.result.put(**{name: list(rows.values()) for name, rows in merged.items()})

    def time(self, threads: list[int], runs: int, *, again: bool = False) -> None:
        """Time the pairs of a data set in turns, with the first seed, if one lacks this machine's.

        All variants are loaded meanwhile. Pairs that were not measured whole have to wait.
        """
        machine, missing = machine_of(1, PACKAGES), self.missing()
        del machine["threads"]  # a latency has its own
        for data in dict.fromkeys(key[0] for key in self.asked):
            keys = {pair: (data, pair, seed) for of, pair, seed in reversed(self.asked) if of == data}
            keys = {pair: key for pair, key in keys.items() if key not in missing and self.bundle(key).is_dir()}
            pairs = [pair for pair in self.settings.pairs if pair in keys]
            told = {"data": data, "timed_on": machine}
            about = {pair: {**told, "pair": pair, "asked": self.asked[keys[pair]]} for pair in pairs}
            known = [] if again else self.result.found.get("latency", [])
            done = [(pair, row["threads"]) for row in known for pair in pairs if about[pair].items() <= row.items()]
            lacking = [count for count in threads if {(pair, count) for pair in pairs} - set(done)]
            made = {pair: self.training(keys[pair]) for pair in pairs if lacking}
            sizes = [{**about[pair], **each.size()} for pair, each in made.items()]
            for count in lacking:
                print(f"== {data}: {', '.join(pairs)}", flush=True)
                latency = time_variants({pair: each.variants() for pair, each in made.items()}, [count], runs)
                self.keep(latency=[{**about[row["pair"]], **row} for row in latency], sizes=sizes)

    def bundle(self, key: Key) -> Path:
        """Return where a training's bundle is, or will be: with other options in another folder."""
        data, pair, seed = key
        decisive = sha256_bytes(json.dumps(self.settings.options_of(data, pair), sort_keys=True).encode())
        return Path(self.work, f"{data}-{pair}-{seed}-{decisive[:8]}", f"{pair}.kdx")

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


def _key(part: str, row: Row) -> tuple[str, ...]:
    """Return what a row of a part is about; one of other options is another row."""
    return tuple(json.dumps(row.get(name), sort_keys=True) for name in ("data", "pair", *_KEYS[part], "asked"))
