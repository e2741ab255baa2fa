"""Trainings of a settings file: what is kept, continued, refused and replaced."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
from benchmarks.accuracy import run as accuracy
from benchmarks.accuracy.run import AccuracyBenchmark
from benchmarks.accuracy.table import accuracy_table
from kd_train.training.options import TrainOptions
from kdx.errors import TrainingError

Parse = Callable[..., Namespace]


class Trainings:
    """Takes the place of trainings: writes down what it is called for, and fails when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, int, int | None]] = []
        self.failure: BaseException | None = None

    def __call__(self, data: Path, options: TrainOptions, bundle: Path, rate: float, precisions: list[str]) -> Any:
        assert (data.is_dir(), rate, precisions, options.resume) == (True, 0.2, ["fp32"], True)
        self.calls.append((options.backbone, options.seed, options.epochs))
        if self.failure is not None:
            raise self.failure
        return {"test": {}, "bundle": bundle.name}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    made = Trainings()
    monkeypatch.setattr(accuracy, "train_and_evaluate", made)
    return made


def measure(arguments: Namespace) -> list[dict[str, Any]]:
    AccuracyBenchmark("accuracy", arguments).run()
    found: list[dict[str, Any]] = json.loads(arguments.out.read_text())["found"]["rows"]
    return found


def test_every_training_is_kept_and_none_is_made_twice(parse: Parse, trainings: Trainings) -> None:
    rows = measure(parse("--seeds", "0"))
    assert trainings.calls == [("test_resnet", 0, 2), ("compact-s", 0, 2)]
    assert [(row["pair"], row["bundle"], row["asked"]["epochs"]) for row in rows] == [
        ("leader", "leader.kdx", 2),
        ("small", "small.kdx", 2),
    ]
    assert len(measure(parse())) == 4
    assert trainings.calls[2:] == [("test_resnet", 1, 2), ("compact-s", 1, 2)]


def test_an_interrupted_call_leaves_what_was_measured(parse: Parse, trainings: Trainings, monkeypatch) -> None:
    measure(parse("--pairs", "leader", "--seeds", "0"))
    trainings.failure = KeyboardInterrupt()
    with pytest.raises(SystemExit, match="the same command continues"):
        measure(parse())
    trainings.failure = None
    before = len(trainings.calls)
    assert len(measure(parse())) == 4
    assert len(trainings.calls) == before + 3


def test_rows_of_other_options_are_not_mixed(parse: Parse, trainings: Trainings) -> None:
    measure(parse("--pairs", "leader"))
    with pytest.raises(SystemExit, match=r"leader, seed 0 was .* other options \(epochs 2, now 9\): give --replace"):
        measure(parse("--pairs", "leader", "--epochs", "9"))
    assert len(trainings.calls) == 2
    rows = measure(parse("--pairs", "leader", "--seeds", "1", "--epochs", "9", "--replace"))
    assert [(row["seed"], row["asked"]["epochs"]) for row in rows] == [(0, 2), (1, 9)]


def test_a_training_that_fails_costs_its_own_row(parse: Parse, trainings: Trainings) -> None:
    trainings.failure = TrainingError("the loss is not finite")
    with pytest.raises(SystemExit, match="cells, small, seed 1: the loss is not finite"):
        measure(parse())
    assert len(trainings.calls) == 4


def test_calls_at_the_same_time_keep_each_others_rows(parse: Parse, trainings: Trainings) -> None:
    first, second = (AccuracyBenchmark("accuracy", parse("--seeds", seed)) for seed in ("0", "1"))
    first.run()
    second.run()
    first.keep(latency=[1])
    found = json.loads(parse().out.read_text())["found"]
    assert len(found["rows"]) == 4
    assert found["latency"] == [1]


def test_solar_cells_come_from_their_package(parse: Parse, monkeypatch) -> None:
    monkeypatch.setattr(accuracy, "write_mvtec_layout", lambda root, cell_type: (root / cell_type).mkdir())
    benchmark = AccuracyBenchmark("accuracy", parse())
    assert [each.name for each in benchmark.root("elpv_mono").iterdir()] == ["mono"]
    assert benchmark.root("cells") == parse().data / "cells"


def test_other_options_have_other_folders(parse: Parse) -> None:
    key = ("cells", "small", 0)
    folders = {AccuracyBenchmark("accuracy", parse(*more)).bundle(key) for more in ((), ("--damage", "0.3"))}
    assert len(folders) == 2


def test_tiles_are_written_as_parts(parse: Parse, tmp_path: Path, make_images) -> None:
    folder = tmp_path / "magnetic" / "train" / "good"
    folder.mkdir(parents=True)
    for number, image in zip((100, 120, 900), make_images(3), strict=True):
        image.save(folder / f"exp1_num_{number}.png")
    path = AccuracyBenchmark("accuracy", parse()).write_tiles(folder.parent.parent)
    lines = dict(line.split(",") for line in path.read_text().splitlines())
    assert len(lines) == 3
    assert lines["exp1_num_100.png"] == lines["exp1_num_120.png"] != lines["exp1_num_900.png"]


@pytest.mark.slow
def test_a_training_goes_from_the_folder_to_figures_and_resumes(parse: Parse, monkeypatch) -> None:
    arguments = parse("--pairs", "small", "--seeds", "0")
    benchmark = AccuracyBenchmark("accuracy", arguments)

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(accuracy, "export_run", interrupt)
        with pytest.raises(SystemExit, match="interrupted"):
            benchmark.run()
    run = benchmark.bundle(("cells", "small", 0)).with_name("run")
    before = {file.name: file.stat().st_mtime_ns for file in run.glob("*.safetensors")}
    assert not arguments.out.exists()
    (row,) = measure(arguments)
    assert {file.name: file.stat().st_mtime_ns for file in run.glob("*.safetensors")} == before  # nothing trained twice
    assert row["epochs"] == [1, 2]
    assert set(row["residuals"]) == {"layer1", "layer2"}
    assert row["images"] == {"train": 6, "held_out": 6}
    assert row["threshold_images"] == 6
    assert row["seconds"]["whole"] >= row["seconds"]["teacher"] + row["seconds"]["students"]
    assert (row["test"]["fp32"]["good"], row["test"]["fp32"]["defective"]) == (4, 4)
    assert (row["drawn"]["fp32"]["good"], row["drawn"]["fp32"]["defective"]) == (6, 18)
    assert all(0 <= row[part]["fp32"][name] <= 1 for part in ("test", "drawn") for name in accuracy.FIGURES)
    lines = accuracy_table(json.loads(arguments.out.read_text()))
    assert lines[2].startswith("| Cells | `small` | 1 | 1 + 2 | test |")
    assert lines[4].startswith("| Cells | goal |  |  | test | 90 |")
