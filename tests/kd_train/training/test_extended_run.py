"""``--resume --epochs N``: a finished run is extended by a new cycle from its last weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from msgspec import UNSET

from kd_export.graph.int8 import Int8Plan
from kd_train.training.extended_run import as_extended
from kd_train.training.int8_stage import options_of_stage
from kd_train.training.run_config import Quantized, RunConfig, other_versions
from kd_train.training.run_folder import Run
from kd_train.training.train import train
from kd_train.training.trainer import Trainer
from kdx.errors import CheckpointError, OptionError
from kdx.storage.json_records import INT8_FOLDER, encode_record
from tests.kd_train.training.test_trainer import (
    ADAM,
    Interrupting,
    assert_same,
    interrupted,
    one_cycle,  # noqa: F401  # a fixture of this module too
    tensors,
)

SHORT = replace(ADAM, epochs=2)
LONGER = replace(ADAM, epochs=4, resume=True)


@pytest.fixture(scope="module")
def short(dataset, tmp_path_factory, one_cycle) -> Path:  # noqa: F811
    """A finished run of two epochs."""
    run = tmp_path_factory.mktemp("short") / "run"
    train(dataset, run, SHORT)
    return run


@pytest.fixture
def run(short, tmp_path) -> Path:
    return Path(shutil.copytree(short, tmp_path / "run"))


@pytest.fixture(scope="module")
def extended(dataset, short, tmp_path_factory) -> tuple[Path, list[float]]:
    """The run, extended to four epochs, and the learning rate at the end of each new epoch."""
    run = Path(shutil.copytree(short, tmp_path_factory.mktemp("extended") / "run"))
    rates: list[float] = []
    save = Trainer._save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Trainer, "_save", lambda self, **kw: (rates.append(self.optimiser.param_groups[0]["lr"]), save(self, **kw))
        )
        result = train(dataset, run, LONGER)
    assert result.record()["cycles"] == [2, 2]
    assert any(line.startswith("extended: 2 + 2 epochs") for line in result.describe())
    return run, rates


def write(run: Path, **changes: object) -> RunConfig:
    config: RunConfig = msgspec.structs.replace(Run(run).config, **changes)
    (run / "run.json").write_bytes(encode_record(config))
    return config


def test_the_new_cycle_is_recorded_and_epochs_keep_counting(short, extended):
    before, after = Run(short), Run(extended[0])
    assert after.config.schema == 4
    assert after.config.recipe == msgspec.structs.replace(before.config.recipe, epochs=4)
    assert after.config.cycles is not UNSET
    first, second = after.config.cycles
    assert (first.after, first.epochs, first.checkpoint_sha256) == (0, 2, "")
    assert (second.after, second.epochs, second.checkpoint_sha256) == (2, 2, before.checkpoint("last").sha256)
    assert (first.created, first.versions) == (before.config.created, before.config.versions)
    history = after.checkpoint("last").history
    assert [one.epoch for one in history] == [1, 2, 3, 4]
    assert history[:2] == before.checkpoint("last").history
    after.require_finished()
    last = after.checkpoint("last")
    assert after.provenance(last).cycles == [2, 2]
    assert after.provenance(msgspec.structs.replace(last, epoch=2)).cycles == []


def test_the_learning_rate_begins_again(extended):
    # Two steps an epoch: after the first epoch of a cycle near the peak, at its end near zero.
    middle, end = extended[1]
    assert middle > 0.4 * SHORT.learning_rate
    assert end < 0.01 * SHORT.learning_rate


def test_it_begins_with_the_last_weights_and_an_optimiser_without_state(dataset, short, run, monkeypatch):
    seen = []

    def look(self, epoch, batches, cache):
        seen.append((self._tensors(teacher=False), dict(self.optimiser.state)))
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_train_epoch", look)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, run, LONGER)
    [(students, state)] = seen
    last = tensors(short)
    assert all(students[name].equal(last[name]) for name in students)
    assert state == {}
    with pytest.raises(CheckpointError, match="not finished"):
        Run(run).require_finished()


def test_an_interrupted_cycle_continues_as_if_it_had_not_been(dataset, extended, run):
    interrupted(dataset, run, LONGER, steps=1)  # before its first epoch is complete
    interrupted(dataset, run, LONGER, steps=3)  # in its second epoch
    train(dataset, run, LONGER)
    assert_same(run, extended[0])
    assert_same(run, extended[0], "best")


def test_a_third_cycle_follows_the_second(dataset, extended, tmp_path):
    run = Path(shutil.copytree(extended[0], tmp_path / "run"))
    train(dataset, run, replace(LONGER, epochs=5))
    cycles = Run(run).config.cycles
    assert cycles is not UNSET
    assert [(one.after, one.epochs) for one in cycles] == [(0, 2), (2, 2), (4, 1)]
    assert cycles[2].checkpoint_sha256 == Run(extended[0]).checkpoint("last").sha256


@pytest.mark.parametrize("times", [1, 2])
def test_fewer_epochs_than_there_are_is_an_error_that_says_so(dataset, run, extended, times):
    target, done = (run, 2) if times == 1 else (extended[0], 4)
    before = (target / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match=f"has {done} epochs already") as caught:
        train(dataset, target, replace(LONGER, epochs=1))
    assert caught.value.expected.startswith(f"more than {done}")
    assert (target / "run.json").read_bytes() == before


@pytest.mark.parametrize("times", [1, 2])
def test_a_cycle_without_an_epoch_is_taken_back_or_corrected(dataset, run, extended, tmp_path, times):
    target = run if times == 1 else Path(shutil.copytree(extended[0], tmp_path / "twice"))
    done, before = 2 * times, Run(target).config
    with pytest.raises(KeyboardInterrupt):
        train(dataset, target, replace(LONGER, epochs=6000), Interrupting(1))
    corrected = as_extended(Run(target), replace(LONGER, epochs=done + 1))
    assert corrected.recipe.epochs == done + 1
    assert [one.epochs for one in corrected.cycles] == [*[2] * times, 1]
    assert as_extended(Run(target), replace(LONGER, epochs=None)) == Run(target).config
    with pytest.raises(CheckpointError, match=f"has {done} epochs already"):
        as_extended(Run(target), replace(LONGER, epochs=1))
    train(dataset, target, replace(LONGER, epochs=done))
    after = Run(target)
    after.require_finished()
    assert (after.config.cycles, after.config.recipe) == (before.cycles, before.recipe)


def test_a_cycle_with_an_epoch_is_not_taken_back(dataset, run):
    interrupted(dataset, run, LONGER, steps=3)
    with pytest.raises(CheckpointError, match="epochs changed since it began"):
        train(dataset, run, replace(LONGER, epochs=2))


def test_an_unfinished_run_is_not_extended(dataset, tmp_path):
    interrupted(dataset, tmp_path / "run", SHORT, steps=3)
    with pytest.raises(CheckpointError, match="epochs changed since it began"):
        train(dataset, tmp_path / "run", LONGER)
    assert Run(tmp_path / "run").config.cycles is UNSET


def test_other_options_and_images_are_refused_as_before(dataset, run):
    before = (run / "run.json").read_bytes()
    for change, reason in (({"seed": 1}, "seed changed"), ({"train_fraction": 0.5}, "began with other images")):
        with pytest.raises(CheckpointError, match=reason):
            train(dataset, run, replace(LONGER, **change))
    assert (run / "run.json").read_bytes() == before


def test_checkpoints_and_bundles_name_the_versions_of_the_last_cycle(run):
    cycles = as_extended(Run(run), LONGER).cycles
    write(run, versions={"torch": "1.0"}, cycles=cycles)
    opened = Run(run)
    opened.save(tensors(run), None, opened.checkpoint("last").history, best=False)
    checkpoint = opened.checkpoint("last")
    assert opened.provenance(checkpoint).trained_with == checkpoint.versions == cycles[-1].versions
    assert checkpoint.versions["torch"] != "1.0"


def test_checkpoints_name_the_versions_that_trained_them_and_a_remark_the_difference(dataset, run):
    now = Run(run).config.versions
    write(run, versions={**now, "torch": "1.0"})
    opened = Run(run)
    opened.save(tensors(run), None, opened.checkpoint("last").history, best=False)
    assert opened.checkpoint("last").versions == now
    (said,) = other_versions(opened.config)
    assert said.first == (f"torch 1.0, now {now['torch']}",)
    assert train(dataset, run, replace(SHORT, resume=True)).remarks == []  # nothing was left to train


def test_border_weights_are_measured_again(run):
    write(run, border_weights=((1.0, 0.5),))
    assert as_extended(Run(run), LONGER).border_weights is UNSET
    assert as_extended(Run(run), replace(LONGER, epochs=2)).border_weights == ((1.0, 0.5),)


def test_an_int8_stage_of_the_weights_before_is_made_again(run):
    checkpoint, stage = Run(run).checkpoint("last").sha256, run / INT8_FOLDER
    asked = replace(LONGER, epochs=3, learning_rate=0.5)
    own = replace(asked, epochs=None, learning_rate=None)
    assert options_of_stage(Run(run), asked) == (own, [])
    config = as_extended(Run(run), LONGER)
    shutil.copytree(run, stage)
    write(run, cycles=config.cycles)
    plan = Quantized(
        checkpoint_sha256=checkpoint, teacher_sha256="", epoch=2, headroom=1.5, images=1, defects=0, plan=Int8Plan({})
    )
    write(stage, quantized=plan)
    made = Run(stage).config.recipe
    same = {"epochs": made.epochs, "learning_rate": made.learning_rate, "headroom": 1.5}
    # It has replaced that of the shorter run: interrupted, it continues with the same options.
    assert options_of_stage(Run(run), asked) == (replace(own, **same), [])
    assert options_of_stage(Run(run), replace(asked, headroom=2.0))[0].headroom == 2.0  # refused later
    write(stage, quantized=msgspec.structs.replace(plan, checkpoint_sha256="0" * 64))
    options, (said,) = options_of_stage(Run(run), asked)
    assert options == replace(own, **same, resume=False, force=True)
    assert "was replaced by one of the extended run, with the same options" in str(said)
    assert options_of_stage(Run(run), replace(asked, headroom=1.5))[0] == options
    with pytest.raises(OptionError, match="`headroom` has no effect"):
        options_of_stage(Run(run), replace(asked, headroom=2.0))
