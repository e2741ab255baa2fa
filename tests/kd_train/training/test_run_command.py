"""What run.json records of a command continues the run, from any folder."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from kd_train.methods import find_method
from kd_train.training.options import TrainOptions
from kd_train.training.run_command import continuing_command, flags_of, recorded_options
from kd_train.training.run_folder import Run
from kd_train.training.train import train
from kdx.cli.train_options import TRAIN_OPTIONS, with_train_options
from kdx.errors import CheckpointError
from tests.kd_train.training.test_distillation import InterruptingTask
from tests.kd_train.training.test_trainer import interrupted
from tests.tiny_training import TINY

EVERYTHING = TrainOptions(
    method="dual-det",
    category="a b",
    subfolders=True,
    good_folders=("fine", "gut"),
    backbone="compact-s",
    teacher_from="resnet18",
    teacher_epochs=3,
    extra_images=("/further", "/more"),
    weights="random",
    init=Path("/run"),
    precision="int8",
    epochs=4,
    image_size=(256, 512),
    crop_from=0,
    crop=(1, 2, 64, 32),
    tile=64,
    batch_size=2,
    learning_rate=1e-5,
    damage=0.25,
    border_weights="on",
    mixed_precision=True,
    taps="layer1/layer2",
    combine="sum",
    score="max",
    blur_sigma=0.5,
    seed=3,
    train_fraction=0.5,
    validation_fraction=0.25,
    group_by=r"(\d+)$",
    parts=Path("/parts.csv"),
    odd_images="skip",
    channels="3",
    sixteen_bit_range=(0, 4095),
)


def test_every_option_is_read_again_as_it_was_given():
    seen = []
    app = typer.Typer()

    @app.command()
    @with_train_options("train")
    def command(training: TrainOptions = TRAIN_OPTIONS) -> None:
        seen.append(training)

    result = CliRunner().invoke(app, flags_of(recorded_options(EVERYTHING)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert seen == [EVERYTHING]
    changed = EVERYTHING.changed()
    missing = set(TrainOptions(resume=True).__dict__) - set(changed)
    # Those of kdx quantize alone, a method's own, and what decides no result.
    not_given = {"headroom", "method_options", "resume", "force", "profile", "max_bad_images", "workers"}
    assert missing == {*not_given, "memory_mib", "device"}


def test_a_methods_own_options_are_flags():
    name = find_method("dual-det").options[0].name
    recorded = recorded_options(TrainOptions(method="dual-det", method_options={name: "x"}))
    assert flags_of(recorded) == ["--method", "dual-det", f"--{name}", "x"]


def test_paths_are_recorded_absolute_and_names_are_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("resnet18", "run"):  # the first has the name of a network
        (tmp_path / folder).mkdir()
    (tmp_path / "run/run.json").touch()
    (tmp_path / "a.pth").touch()
    options = TrainOptions(
        parts=Path("parts.csv"), init=Path("run"), extra_images=("more",), weights="a.pth,random", teacher_from="run"
    )
    assert recorded_options(options) == {
        "parts": str(tmp_path / "parts.csv"),
        "init": str(tmp_path / "run"),
        "extra_images": [str(tmp_path / "more")],
        "weights": f"{tmp_path / 'a.pth'},random",
        "teacher_from": str(tmp_path / "run"),
    }
    assert recorded_options(TrainOptions(teacher_from="resnet18")) == {"teacher_from": "resnet18"}


@pytest.mark.skipif(os.name == "nt", reason="names are of bytes")
def test_paths_that_are_not_text_are_recorded():
    name = os.fsdecode(b"/parts\xff.csv")
    assert recorded_options(TrainOptions(parts=Path(name))) == {"parts": name}


@pytest.mark.slow
def test_the_command_that_messages_print_continues_the_run_from_another_folder(cli, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(dataset.parent)
    interrupted(Path(dataset.name), tmp_path / "run", replace(TINY, epochs=2), steps=3)
    assert Run(tmp_path / "run").config.data == str(dataset)
    monkeypatch.chdir(tmp_path)
    stderr = cli("export", "run", "-o", "tile.kdx").stderr
    words = shlex.split(stderr.partition("continue it: kdx ")[2].splitlines()[0])
    assert "resumed after epoch 1" in cli(*words, "--workers", 0, "--device", "cpu").stdout


@pytest.mark.slow
def test_a_compact_teacher_alone_is_continued_by_its_own_command(dataset, tmp_path):
    options = replace(TINY, backbone="compact-s", teacher_from="test_resnet", taps="layer2", teacher_epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", options, InterruptingTask("compact teacher", 5), teacher_only=True)
    for folder in (tmp_path / "run", tmp_path / "run/teacher"):
        words = shlex.split(continuing_command(folder, Run(folder).config).removeprefix("continue it: "))
        assert words[:5] == ["kdx", "distil", str(dataset), "--out", str(tmp_path / "run")]
    with pytest.raises(CheckpointError, match="1 of 2 epochs of the compact teacher is kept"):
        Run(tmp_path / "run").checkpoint("last")
