"""A station on the line: is every part judged, recorded and reported once, whatever happens?

    python -m benchmarks station IMAGES BUNDLE [--parts 5000] [--rate 20] [--requests 200000]
        [--clients 16] [--only watch,serve,load] [--result FILE]

IMAGES is a folder of PNG files for BUNDLE, which is calibrated. Parts come ``--rate`` a second; at
0, they wait for the station. The trials are those of ``tests/robustness/tools/station.py``, which a
test runs as a miniature. Linux only. Writes ``results/station.json`` after every trial.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.commands import parser_of, run_module
from benchmarks.results import Result, machine_of, run_parts
from kdx.bundle.open import open_bundle

_PACKAGES = ("kdx", "numpy", "onnxruntime", "amqtt", "paho-mqtt", "starlette", "uvicorn")


def main() -> None:
    """Run every trial."""
    parser = parser_of(__doc__, "images", "bundle", parts=5000, rate=20, requests=200_000, clients=16)
    parser.add_argument("--only")
    parser.add_argument("--result", type=Path)
    given = parser.parse_args()
    manifest = open_bundle(given.bundle).manifest
    settings = {
        "method": manifest.method, "backbone": manifest.provenance.backbone,
        "input": [manifest.input.height, manifest.input.width], "images": len(list(given.images.glob("*.png"))),
    }  # fmt: skip
    budget = {name: getattr(given, name) for name in ("parts", "rate", "requests", "clients")}
    identity = {"machine": machine_of(1, _PACKAGES), "settings": settings}
    result = Result.resume("station", identity, budget, path=given.result)
    trial = partial(run_module, "tests.robustness.tools.station")
    words = (given.images.absolute(), given.bundle.absolute(), *budget.values())
    run_parts(result, {name: partial(trial, name, *words) for name in ("watch", "serve", "load")}, given.only)
