"""kdx's CPU runtimes against anomalib's own, from the camera's uint8 array to the score, one image at a time.

    python -m benchmarks peers DATA [--work DIR] [--runs 200] [--threads 2] [--only METHOD,...] [--again]

DATA is what ``kdx train`` takes. anomalib's models go through anomalib's exports and inferencers
(``pip install -e ".[peers,fit]"``), kdx's through ``kdx.load``, the papers' harness through ``kd_train``;
at 256 x 256 with ResNet-18, same images, same threads, each in a process of its own, in turns (``timing/turns.py``).
Weights are random: latency does not depend on them. What is prepared is kept in --work, and made again with --again.
Writes ``results/peers.json``, ``peers.png`` and ``.svg``; a second call with --only measures those methods again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import msgspec

from benchmarks.commands import RESULTS
from benchmarks.peers.anomalib_exports import PEERS
from benchmarks.peers.plot import plot
from benchmarks.peers.rows import (
    EAGER,
    KDX_METHODS,
    Row,
    Setup,
    absent_reason,
    anomalib_rows,
    eager_row,
    kdx_rows,
    prepare_anomalib,
    prepare_kdx,
)
from benchmarks.timing.turns import Timed, time_in_turns
from kdx.runtime.latency import describe_machine

ROUNDS, WARM_UP = 10, 10
# The loop whose latency others are held against where a method has none of its own.
ANCHOR = "stpm"
PACKAGES = ("anomalib", "kdx", "nncf", "numpy", "onnxruntime", "openvino", "timm", "torch")


def main() -> None:
    """Prepare, measure, write."""
    arguments = _arguments()
    methods = list(PEERS) if arguments.only is None else arguments.only.split(",")
    if unknown := set(methods) - set(PEERS):
        raise SystemExit(f"no such method: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    setup = Setup(arguments.data, arguments.work.resolve(), arguments.threads, fitted=arguments.fitted)
    os.environ.setdefault("KDX_CACHE_DIR", str(setup.work / "cache"))
    record = new_record(setup, arguments.runs)
    file: Path = arguments.output / "peers.json"
    keep_rows(record, file, methods)
    # All of it before anything is timed.
    rows = {method: prepare(setup, method, record, again=arguments.again) for method in methods}
    for method in methods:
        print(f"measuring {method}", flush=True)
        record["rows"] += measure(setup, method, rows[method], arguments.runs)
        record["rows"].sort(key=lambda row: list(PEERS).index(row["method"]))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    plot(record, file.with_suffix(""))
    print(f"wrote {file}, .png and .svg")


def prepare(setup: Setup, method: str, record: dict[str, Any], *, again: bool = False) -> list[Row]:
    """Make whatever a method's candidates load, put its settings into the record, and return its rows."""
    rows: list[Row] = []
    if method in KDX_METHODS:
        rows += kdx_rows(setup, method, prepare_kdx(setup, method, again=again))
    else:
        anchor = prepare_kdx(setup, ANCHOR)
        rows.append(eager_row(setup, ANCHOR, anchor))
    folder = None if absent_reason() else prepare_anomalib(setup, method, again=again)
    if folder is not None:
        exported = json.loads((folder / "exports.json").read_text(encoding="utf-8"))
        record["models"][PEERS[method].title] = exported["settings"]
    return rows + anomalib_rows(setup, method, folder)


def measure(setup: Setup, method: str, rows: Sequence[Row], runs: int) -> list[dict[str, Any]]:
    """Time a method's candidates in turns and return all of its rows, those that cannot run included."""
    candidates = [row.candidate for row in rows if row.candidate is not None]
    timed = time_in_turns(
        candidates,
        setup.images(setup.timed),
        threads=setup.threads,
        runs=runs,
        rounds=ROUNDS,
        warm_up=WARM_UP,
        say=lambda line: print(f"  {line}", flush=True),
    )
    found = list(_joined(rows, timed))
    eager_ms = next((row["p50_ms"] for row in found if row["system"] == EAGER), None)
    return [{**row, "method": method, "eager_ms": eager_ms} for row in found]


def new_record(setup: Setup, runs: int) -> dict[str, Any]:
    """Return a record without rows."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    settings = {
        "data": setup.data.name,
        "backbone": setup.backbone,
        "taps": setup.taps,
        "size": setup.size,
        "sigma": 4,
        "batch": 1,
        "images": setup.timed,
        "fitted_on_images": setup.fitted,
        "runs": runs,
        "rounds": ROUNDS,
        "warm_up": WARM_UP,
    }
    machine = msgspec.to_builtins(describe_machine(setup.threads, versions))
    return {"machine": machine, "settings": settings, "models": {}, "rows": []}


def keep_rows(record: dict[str, Any], file: Path, methods: Sequence[str]) -> None:
    """Take over the rows of other methods that were measured before on the same machine, in the same way."""
    if not file.is_file():
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    if any(before[key] != record[key] for key in ("machine", "settings")):
        print(f"what is in {file} was measured otherwise and is not kept", flush=True)
        return
    record["models"] = before["models"]
    record["rows"] = [row for row in before["rows"] if row["method"] not in methods]


def _joined(rows: Sequence[Row], timed: Sequence[Timed]) -> Iterator[dict[str, Any]]:
    """Yield each row with its figures; ``timed`` has those of the rows with a candidate, in order."""
    results = iter(timed)
    for row in rows:
        facts = {field.name: getattr(row, field.name) for field in fields(row) if field.name != "candidate"}
        figures = Timed(row.title, error=row.error) if row.candidate is None else next(results)
        yield {**facts, **{name: value for name, value in asdict(figures).items() if name != "name"}}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    work = Path(gettempdir()) / "kdx-peers"
    parser.add_argument("--work", type=Path, default=work, help="Where what is prepared is kept.")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Folder for the JSON and the plot.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fitted", type=int, default=100, help="Images in PatchCore's bank and PaDiM's Gaussians.")
    parser.add_argument("--only", metavar="METHOD,...", help=f"Of {', '.join(PEERS)}; the others' rows are kept.")
    parser.add_argument("--again", action="store_true", help="Prepare anew.")
    return parser.parse_args()


if __name__ == "__main__":
    main()
