"""kdx's CPU runtimes beside anomalib's own, from the camera's uint8 array to the score.

    python -m benchmarks peers DATA [--work DIR] [--runs N] [--threads N] [--only METHOD] [--again]

DATA is what ``kdx train`` takes. anomalib's models go through anomalib's exports and inferencers
(``pip install -e ".[peers,fit]"``), kdx's through ``kdx.load``, the papers' loop through
``kd_train``; all at 256 × 256 with ResNet-18, same images, same threads, each in a process of its
own, in turns (``timing/turns.py``). Weights are random: latency does not depend on them. What is
prepared is kept in --work, and made again with --again. Writes ``results/peers.json``;
a second call with --only measures those methods again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from benchmarks.commands import RESULTS, parser_of
from benchmarks.peers.anomalib_exports import PEERS
from benchmarks.peers.rows import EAGER, KDX_METHODS, Row, Setup, anomalib_rows, export_peer, kdx_rows
from benchmarks.results import Result, machine_of
from benchmarks.timing.turns import Timed, time_in_turns

# Where kdx has no bundle of a method, its rows are compared with this method's eager loop.
ANCHOR = "stpm"
PACKAGES = ("anomalib", "kdx", "nncf", "numpy", "onnxruntime", "openvino", "timm", "torch")


def main() -> None:
    """Prepare everything, then measure method after method."""
    parser = parser_of(__doc__, "data", runs=200, threads=2)
    work = Path(gettempdir()) / "kdx-peers"
    parser.add_argument("--work", type=Path, default=work, help="Where what is prepared is kept.")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Folder for the JSON.")
    parser.add_argument("--fitted", type=int, default=100, help="Images in PatchCore's bank and PaDiM's Gaussians.")
    parser.add_argument("--only", metavar="METHOD,...", help=f"Of {', '.join(PEERS)}; the others' rows are kept.")
    parser.add_argument("--again", action="store_true", help="Prepare everything again.")
    arguments = parser.parse_args()
    methods = list(PEERS) if arguments.only is None else arguments.only.split(",")
    if unknown := set(methods) - set(PEERS):
        parser.error(f"no such method: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    if arguments.again:
        shutil.rmtree(arguments.work, ignore_errors=True)
    setup = Setup(arguments.data, arguments.work.resolve(), arguments.threads, fitted=arguments.fitted)
    os.environ.setdefault("KDX_CACHE_DIR", str(setup.work / "cache"))
    settings = {"data": setup.data.name, "backbone": setup.backbone, "taps": setup.taps, "size": setup.size, "sigma": 4,
                "batch": 1, "images": setup.timed, "fitted_on_images": setup.fitted}  # fmt: skip
    identity = {"machine": machine_of(setup.threads, PACKAGES), "settings": settings}
    result = Result.resume("peers", identity, {"runs": arguments.runs}, path=arguments.output / "peers.json")
    models = result.found.get("models", {})
    prepared = {method: prepare(setup, method, models) for method in methods}  # all of it before anything is timed
    for method in methods:
        print(f"measuring {method}", flush=True)
        kept = [row for row in result.found.get("rows", []) if row["method"] != method]
        rows = [*kept, *measure(setup, method, prepared[method], arguments.runs)]
        result.put(models=models, rows=sorted(rows, key=lambda row: list(PEERS).index(row["method"])))
    print(f"wrote {result.path}")


def prepare(setup: Setup, method: str, models: dict[str, Any]) -> list[Row]:
    """Make what a method's candidates load, note anomalib's settings in ``models``; return rows."""
    rows = kdx_rows(setup, method) if method in KDX_METHODS else kdx_rows(setup, ANCHOR)[:1]
    record = export_peer(setup, method)
    models[PEERS[method].title] = record["settings"]
    return rows + anomalib_rows(method, record)


def measure(setup: Setup, method: str, rows: Sequence[Row], runs: int) -> list[dict[str, Any]]:
    """Time a method's candidates in turns; return all of its rows, with those that did not run."""
    candidates = [row.candidate for row in rows if row.candidate is not None]
    images = setup.images(setup.timed)
    timed = time_in_turns(candidates, images, threads=setup.threads, runs=runs, say=lambda line: print(f"  {line}"))
    found = list(_joined(rows, timed))
    eager_ms = next((row["p50_ms"] for row in found if row["system"] == EAGER), None)
    return [{**row, "method": method, "eager_ms": eager_ms} for row in found]


def _joined(rows: Sequence[Row], timed: Sequence[Timed]) -> Iterator[dict[str, Any]]:
    """Yield each row with its figures; ``timed`` has those of rows with a candidate, in order."""
    results = iter(timed)
    for row in rows:
        facts = {field.name: getattr(row, field.name) for field in fields(row) if field.name != "candidate"}
        figures = Timed(row.title, error=row.error) if row.candidate is None else next(results)
        yield {**facts, **{name: value for name, value in asdict(figures).items() if name != "name"}}
