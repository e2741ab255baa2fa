"""A run with fewer epochs than planned is used as it is, and every command that uses it says so."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from kd_train.training.run_folder import Run

KIND = "unfinished_training"
NOTE = "note: 2 of 40 epochs trained: the training was not finished"


@pytest.fixture
def unfinished_run(run_copy) -> Path:
    """A run of two epochs of 40."""
    for name in ("run.json", "last.json", "best.json"):
        record = json.loads((run_copy / name).read_text(encoding="utf-8"))
        record["recipe"]["epochs"] = 40
        (run_copy / name).write_text(json.dumps(record), encoding="utf-8")
    return run_copy


def kinds_of(record: dict) -> list[str]:
    return [one["kind"] for one in record["remarks"]]


def test_evaluate_says_that_a_training_was_not_finished(cli, unfinished_run, tiny_run, dataset):
    result = cli("evaluate", unfinished_run, dataset)
    assert NOTE in result.stderr
    words = shlex.split(result.stderr.partition("continue it: ")[2].splitlines()[0])
    assert words[:5] == ["kdx", "train", str(dataset), "--out", str(unfinished_run)]
    assert words[-1] == "--resume"
    given = dict(zip(words[5:-1:2], words[6:-1:2], strict=True))
    assert given["--image-size"] == "64"
    assert given["--learning-rate"] == "0.05"
    assert KIND in kinds_of(cli("evaluate", unfinished_run, dataset, "--json").json)
    assert KIND not in kinds_of(cli("evaluate", tiny_run, dataset, "--json").json)


@pytest.mark.slow
def test_a_bundle_of_an_unfinished_run_says_so(cli, unfinished_run, dataset, tmp_path):
    bundle = tmp_path / "early.kdx"
    assert kinds_of(cli("export", unfinished_run, "-o", bundle, "--json").json) == [KIND]
    assert NOTE in cli("export", unfinished_run, "-o", bundle, "--force").stderr
    shown = cli("inspect", bundle)
    assert "2 of 40 epochs on" in shown.stdout
    assert NOTE in shown.stderr
    assert NOTE in cli("evaluate", bundle, dataset).stderr
    page = tmp_path / "report.html"
    assert NOTE in cli("report", bundle, dataset, "--no-latency", "-o", page).stderr
    assert NOTE.partition(": ")[2] in page.read_text(encoding="utf-8")


def test_a_bundle_of_a_finished_run_records_nothing_of_it(cli, raw_bundle, tiny_run):
    manifest = json.loads((raw_bundle / "bundle.json").read_text(encoding="utf-8"))
    assert "planned_epochs" not in manifest["provenance"]
    assert "epochs trained" not in cli("inspect", raw_bundle).stderr
    assert Run(tiny_run).remarks() == []


@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_a_run_without_a_complete_epoch_says_so(cli, run_copy, dataset, tmp_path, command):
    for name in ("last.json", "best.json"):
        (run_copy / name).unlink()
    arguments = ("-o", tmp_path / "no.kdx") if command == "export" else (dataset,)
    stderr = cli(command, run_copy, *arguments, code=2).stderr
    assert f"no epoch of '{run_copy}' was completed" in stderr
    assert f"kdx train {dataset} --out {run_copy} --backbone test_resnet --weights random" in stderr


def test_a_run_of_an_earlier_release_names_what_it_has_recorded(cli, run_copy, tmp_path):
    record = json.loads((run_copy / "run.json").read_text(encoding="utf-8"))
    del record["options"], record["command"]
    (run_copy / "run.json").write_text(json.dumps({**record, "data": "cells", "category": "a"}), encoding="utf-8")
    for name in ("last.json", "best.json"):
        (run_copy / name).unlink()
    stderr = cli("export", run_copy, "-o", tmp_path / "no.kdx", code=2).stderr
    command = f"kdx train cells --out {run_copy} --method stpm --category a --resume"
    assert f"continue with its other options: {command}" in stderr
