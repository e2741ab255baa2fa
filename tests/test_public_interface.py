"""Nothing public changes by accident: names, options, exit statuses, the C header, records, bytes
of bundles.

After a change that is meant, write the records in ``tests/fixtures/public`` again, and read the
difference::

    KDX_WRITE_PUBLIC=1 python -m pytest -n 0 tests/test_public_interface.py
    git diff tests/fixtures/public
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import kdx
from kdx.station.database import FILE
from kdx.station.ledger import Ledger
from tests import public_interface as public
from tests.schema1 import FIXTURES as SCHEMA1
from tests.schema1 import old_bundle

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "tests/fixtures/public"
RUN_V1 = ROOT / "tests/fixtures/run_v1"
# Mappings from names of files, packages, precisions, runtimes and so on.
BY_NAME = dict.fromkeys(
    (
        *("files", "trained_with", "exported_with", "versions", "variants", "graph_sha256", "tolerances", "scores"),
        *("types", "bad_images", "thresholds", "flushed", "train_images", "validation_images", "judged", "options"),
        *("references", "verdicts"),
    ),
    1,
) | {"runtime_thresholds": 2, "not_measured_here": -1}


def hold(name: str, value: object) -> None:
    """Compare a value with the record of a name, as text, line by line."""
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    record = RECORDS / name
    if os.environ.get("KDX_WRITE_PUBLIC"):
        record.write_text(text, encoding="utf-8", newline="\n")
    then = record.read_text(encoding="utf-8")
    changes = "\n".join(difflib.unified_diff(then.splitlines(), text.splitlines(), "recorded", "now", lineterm=""))
    assert not changes, (
        f"The public interface changed. If that is meant, CHANGELOG.md needs an entry that says so, and {name} must "
        f"be written again, see the docstring of {Path(__file__).name}:\n{changes}"
    )


def test_python_names():
    hold("python_names.json", public.python_names())


def test_attributes_of_objects(tmp_path):
    bundle = old_bundle("stpm", tmp_path)
    with kdx.load_many({"a": bundle}, backend="onnxruntime-cpu") as group:
        found = {
            "DetectorGroup": public.attributes(group),
            "Detector": public.attributes(group["a"]),
            "KdxError": public.attributes(kdx.KdxError("message")),
        }
    hold("attributes.json", found)


def test_names_for_methods_and_data_sets_of_other_packages():
    hold("extension_names.json", public.extension_names())


def test_contributors_read_which_modules_are_for_other_packages():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in public.EXTENSION_MODULES if f"`{name}`" not in guide] == []


def test_options():
    hold("command_line.json", public.command_line())


def test_exit_statuses_of_errors():
    import typer
    from typer.testing import CliRunner

    from kdx.cli.error_output import Command

    def status(error: BaseException) -> int:
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.command(cls=Command)
        def fails() -> None:
            raise error

        return CliRunner().invoke(app, []).exit_code

    found = {type(each).__name__: status(each) for each in (OSError(), KeyboardInterrupt(), RuntimeError())}
    hold("exit_statuses.json", {**public.error_classes(), **found})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGPIPE")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_exit_status_when_nobody_reads_the_output(tmp_path, options):
    command = [sys.executable, "-m", "kdx", "inspect", str(old_bundle("stpm", tmp_path)), *options]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("name", ["kdx.h", "kdx.hpp"])
def test_headers(name):
    header = (ROOT / "embed/include/kdx" / name).read_text(encoding="utf-8")
    hold(f"{name}.txt", public.bare_header(header))


ON_CPU = ("--backend", "onnxruntime-cpu")
GOOD = RUN_V1 / "images/train/good"
HOTTEST = SCHEMA1 / "images/cell-hottest.png"
# Commands whose JSON is recorded, with their arguments: BUNDLE is a bundle, and OUT a path to write
# to.
WITH_JSON: dict[str, tuple[object, ...]] = {
    "bench": ("BUNDLE", "--budget-ms", 1e-6, "--percentile", 50, "--runs", 20, *ON_CPU),
    "calibrate": ("BUNDLE", GOOD, "--false-reject-rate", 0.2),
    "doctor": (),
    "drift": ("BUNDLE", "LOG", "--window", 60),
    "evaluate": ("BUNDLE", RUN_V1 / "images", *ON_CPU),
    "inspect": ("BUNDLE",),
    "methods": (),
    "predict": ("BUNDLE", SCHEMA1 / "images/cell-0.png", HOTTEST, "--regions", *ON_CPU),
    "repeat": ("BUNDLE", GOOD, *ON_CPU),
    "report": ("BUNDLE", RUN_V1 / "images", "-o", "OUT", "--no-latency", *ON_CPU),
    "roi": ("BUNDLE", "--set", SCHEMA1 / "level/roi.png"),
    "score": ("BUNDLE", GOOD, "-o", "OUT", "--workers", 1, "--precision", "fp32", *ON_CPU),
    "selftest": ("BUNDLE", "--budget-ms", 1e-6, *ON_CPU),
    "sign": ("BUNDLE", "--key", "KEY"),
    "triton": ("BUNDLE", "-o", "OUT"),
    "verify": ("BUNDLE", *ON_CPU),
    "watch": (GOOD, "--bundle", "BUNDLE", "--out", "OUT", "--once", "--settle", 0, "--precision", "fp32", *ON_CPU),
}
WITH_LINES = {"predict", "watch"}  # one object for each image


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_JSON)
def test_exit_status_and_fields_of_json(tmp_path, cli, name):
    places = {"BUNDLE": old_bundle("stpm", tmp_path), "OUT": tmp_path / "out"}
    if name == "drift":
        places["LOG"] = _logged(places["BUNDLE"], tmp_path / "line.log")
    if name == "sign":
        cli("sign", "--new-key", tmp_path / "line")
        places["KEY"] = tmp_path / "line.key"
    arguments = [places.get(str(each), each) for each in WITH_JSON[name]]
    said = cli(name, *arguments, "--json", code=None)
    record = said.lines if name in WITH_LINES else said.json
    hold(f"json/{name}.json", {"exit_status": said.exit_code, "json": public.fields_of(record, BY_NAME)})


def test_tables_of_the_log(tmp_path):
    log = _logged(old_bundle("stpm", tmp_path), tmp_path / "line.log")
    hold("log_tables.json", _columns(log))


def test_tables_of_the_ledger_of_a_station(tmp_path):
    Ledger(tmp_path / FILE, create=True).close()
    hold("ledger_tables.json", _columns(tmp_path / FILE))


def _columns(path: Path) -> dict[str, list[Any]]:
    """Return the columns of an SQLite file, by table, and its schema."""
    with closing(sqlite3.connect(path)) as base:
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        columns = {name: [row[1:] for row in base.execute(f"PRAGMA table_info({name})")] for name in tables}
        return {"schema": list(base.execute("PRAGMA user_version").fetchone()), **columns}


def _logged(bundle: Path, log: Path) -> Path:
    """Judge one image 60 times, and return the log of the verdicts."""
    with kdx.load(bundle, log=log, backend="onnxruntime-cpu", precision="fp32") as detector:
        for _ in range(60):
            detector(kdx.read_image(HOTTEST, detector.input))
    return log


@pytest.mark.slow
def test_fields_of_scores(tmp_path, cli):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    out = tmp_path / "scores"
    cli("score", old_bundle("stpm", tmp_path), GOOD, "-o", out, "--workers", 1, "--precision", "fp32", *ON_CPU)
    (shard,) = out.glob("shards/*.parquet")
    columns = {field.name: str(field.type) for field in parquet.read_schema(shard)}
    files = sorted(_without_hash(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    records = {path.name: public.fields_of(_json(path), BY_NAME) for path in sorted(out.glob("*.json"))}
    hold("score_fields.json", {"files": files, "columns": columns, **records})


def test_bytes_of_a_model_repository(tmp_path, cli):
    cli("triton", old_bundle("stpm", tmp_path), "-o", tmp_path / "models")
    (config,) = (tmp_path / "models").rglob("config.pbtxt")
    hold("triton.pbtxt", config.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["stpm", "level", "tiled"])
def test_bytes_of_an_old_bundle_that_is_written_again(tmp_path, cli, name):
    bundle = old_bundle(name, tmp_path)
    if name == "level":
        cli("roi", bundle, "--remove")
    else:
        mask = _half(tmp_path / "roi.png", kdx.open_bundle(bundle).manifest.camera)
        cli("roi", bundle, "--set", mask)
    hold(f"rewritten_{name}.json", (bundle / "bundle.json").read_text(encoding="utf-8"))


def _half(path: Path, camera: kdx.InputSpec) -> Path:
    mask = Image.new("L", (camera.width, camera.height))
    mask.paste(255, (0, 0, camera.width // 2, camera.height))
    mask.save(path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Any]) -> tuple[Path, Any]:
    """A bundle of the weights in ``run_v1``, and what ``kdx export --json`` printed."""
    folder = Path(shutil.copytree(RUN_V1, tmp_path_factory.mktemp("exported") / "v1"))
    said = cli("export", folder / "run", "-o", folder / "v1.kdx", "--precision", "fp32,fp16", "--json")
    return folder / "v1.kdx", said.json


@pytest.mark.slow
def test_fields_of_an_export(exported):
    bundle, said = exported
    files = sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file())
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    found = {"json": said, "bundle.json": manifest, "training_images.json": _json(bundle / "training_images.json")}
    layouts = {name: public.fields_of(value, BY_NAME) for name, value in found.items()}
    hold("export_fields.json", {"files": files, **layouts})


def test_bytes_of_an_export(exported):
    """The same weights give the same files, where the same packages compute on the same kind of
    CPU."""
    import torch

    bundle, _ = exported
    manifest = _json(bundle / "bundle.json")
    manifest["provenance"]["created"] = "a time"
    machine = {
        **manifest["provenance"]["exported_with"],
        "python": ".".join(map(str, sys.version_info[:2])),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
    record = RECORDS / "exported.json"
    if not os.environ.get("KDX_WRITE_PUBLIC") and (then := _json(record)["machine"]) != machine:
        pytest.skip(f"the bytes were recorded with {then}, and this is {machine}")
    hold(record.name, {"machine": machine, "bundle.json": manifest})
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest


def test_fields_of_a_run(tmp_path, cli):
    run = tmp_path / "run"
    options = ("--backbone", "test_resnet", "--weights", "random", "--taps", "act1,layer1", "--image-size", 64)
    options += ("--epochs", 1, "--batch-size", 2, "--validation-fraction", 0.5, "--workers", 0, "--device", "cpu")
    said = cli("train", RUN_V1 / "images", "-o", run, *options, "--json").json
    records = {path.name: _json(path) for path in sorted(run.glob("*.json"))}
    files = sorted({_without_hash(path.relative_to(run)) for path in run.rglob("*") if path.is_file()})
    layouts = {name: public.fields_of(value, BY_NAME) for name, value in {"json": said, **records}.items()}
    hold("run_fields.json", {"files": files, **layouts})


def _without_hash(path: Path) -> str:
    return re.sub(r"[0-9a-f]{12,}", "HASH", path.as_posix())


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
