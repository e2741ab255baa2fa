"""``--init RUN``: a training starts from another run's students, if everything fits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from msgspec import UNSET
from PIL import Image

from kd_train.data.image_records import BadImages, scan_images, split_images
from kd_train.training.initial_students import StudentsOfRun, _first_unlike
from kd_train.training.run_folder import Run
from kd_train.training.train import train
from kd_train.training.trained_pair import load_pair
from kdx.bundle.open import open_bundle
from kdx.errors import CheckpointError, DataError, OptionError
from kdx.imaging.image_identity import KnownImages, Likeness
from kdx.storage.json_records import encode_record
from tests.kd_train.training.test_distillation import COMPACT
from tests.kd_train.training.test_trainer import assert_same, interrupted, tensors
from tests.tiny_training import TINY

# Steps so small that the weights stay what they were.
STILL = replace(TINY, learning_rate=1e-9)


@pytest.fixture(scope="module")
def source(dataset, tmp_path_factory) -> Path:
    """A finished run."""
    return train(dataset, tmp_path_factory.mktemp("source") / "run", TINY).run.path


@pytest.fixture(scope="module")
def lamp(dataset, tmp_path_factory) -> Path:
    """The good images under another lamp."""
    data = tmp_path_factory.mktemp("lamp") / "cells"
    (data / "train/good").mkdir(parents=True)
    for path in sorted((dataset / "train/good").iterdir()):
        with Image.open(path) as image:
            image.point(lambda value: value * 2 // 3).save(data / "train/good" / path.name)
    return data


@pytest.fixture(scope="module")
def started(lamp, source, tmp_path_factory) -> Path:
    """A run that started from the students of the source."""
    options = replace(STILL, epochs=2, init=source)
    result = train(lamp, tmp_path_factory.mktemp("started") / "run", options)
    assert f"started from the students of {source}, epoch 1" in result.describe()
    assert result.record()["init"] == result.run.config.init
    return result.run.path


def students(run: Path) -> Mapping[str, torch.Tensor]:
    # Statistics of batch normalisation follow the images.
    return {
        name: value
        for name, value in tensors(run).items()
        if not name.startswith("teacher.") and "running" not in name and "tracked" not in name
    }


def test_it_starts_from_the_students_of_the_run(source, started):
    before, after = students(source), students(started)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_the_run_records_from_which(source, started):
    config, of = Run(started).config, Run(source)
    assert config.init is not UNSET
    assert config.init.run == str(source)
    assert config.init.checkpoint_sha256 == of.checkpoint("last").sha256
    assert (config.init.teacher_sha256, config.init.epoch) == (of.config.teacher_sha256, 1)
    assert config.init.data_sha256 == of.config.data_sha256
    assert config.teacher_sha256 == of.config.teacher_sha256
    assert config.schema == 4
    load_pair(Run(started))


def test_images_that_the_students_know_are_not_held_out_and_not_calibrated_on(dataset, source, tmp_path, cli):
    """One image less than the source had: of all of them, others would be held out."""
    earlier = Run(source).config
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    (data / "train/good" / Path(min(earlier.validation_images)).name).unlink()
    run = train(data, tmp_path / "run", replace(STILL, init=source, validation_fraction=0.25)).run
    config, known = run.config, earlier.known_images()
    records = scan_images(sorted((data / "train/good").iterdir()), BadImages(0))
    _, drawn = split_images(records, validation_fraction=0.25, train_fraction=1, seed=config.seed)
    assert any(known.likeness(record.identity) is Likeness.SAME for record in drawn)
    assert len(config.validation_images) == 3
    assert set(config.validation_images.values()) <= set(earlier.validation_images.values())
    assert all(config.known_images().likeness(one) is Likeness.SAME for one in known.images)
    bundle = tmp_path / "tile.kdx"
    cli("export", run.path, "--out", bundle)
    cli("calibrate", bundle, dataset, "--false-reject-rate", "0.5")
    calibrated_on = open_bundle(bundle).manifest.threshold
    assert calibrated_on is not None
    assert calibrated_on.images == 4  # of 12: three held out by this run, and one that neither saw


def test_images_of_the_source_count_as_trained_on(source, started):
    known = Run(started).config.known_images()
    assert all(known.likeness(one) is Likeness.SAME for one in Run(source).config.known_images().images)
    assert len(known.images) == 12
    opened = Run(started)
    assert opened.provenance(opened.checkpoint("last")).earlier_images == 6


def test_where_all_images_are_known_none_can_be_held_out(dataset):
    records = scan_images(sorted((dataset / "train/good").iterdir()), BadImages(0))
    known = KnownImages([record.identity for record in records])
    with pytest.raises(DataError, match="none can be held out"):
        split_images(records, validation_fraction=0.5, train_fraction=1, seed=0, learnt=known)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "dual-det", "method_options": {"part": "kd"}}, "`method`"),
    "backbone": ({"backbone": "test_resnet.r160_in1k"}, "`backbone`"),
    "taps": ({"taps": "layer1,layer2"}, "`taps`"),
    "weights of the teacher": ({"seed": 1}, "weights of the teacher"),
}


@pytest.mark.parametrize(("change", "named"), REFUSED.values(), ids=list(REFUSED))
def test_what_differs_is_named(lamp, source, tmp_path, change, named):
    with pytest.raises(CheckpointError, match="not the same") as caught:
        train(lamp, tmp_path / "run", replace(STILL, init=source, **change))
    assert named in caught.value.message
    assert caught.value.expected != caught.value.received
    assert not (tmp_path / "run").exists()


def test_layers_and_sizes_are_named():
    zeros = torch.zeros
    assert _first_unlike({"a": zeros(2)}, {"a": zeros(2)}) is None
    assert _first_unlike({"a": zeros(2)}, {"a": zeros(2), "b": zeros(1)}) == ("layers", "'b' missing", "'b' (1,)")
    assert _first_unlike({"a": zeros(2)}, {"a": zeros(3)}) == ("sizes of weights", "'a' (2,)", "'a' (3,)")


def test_a_run_does_not_start_from_itself_nor_from_an_unfinished_one(dataset, lamp, source, tmp_path):
    run = Path(shutil.copytree(source, tmp_path / "run"))
    with pytest.raises(OptionError, match="cannot start from itself"):
        train(dataset, run, replace(STILL, init=run, force=True))
    interrupted(dataset, tmp_path / "part", replace(TINY, epochs=2), steps=3)
    with pytest.raises(CheckpointError, match="is not finished"):
        train(lamp, tmp_path / "new", replace(STILL, init=tmp_path / "part"))


def test_it_is_resumed_with_the_run_that_it_began_with(lamp, source, started, tmp_path):
    run, options = tmp_path / "run", replace(STILL, epochs=2, init=source)
    interrupted(lamp, run, options, steps=1)
    with pytest.raises(CheckpointError, match="without the students with which it began"):
        train(lamp, run, replace(options, init=None, resume=True))
    with pytest.raises(CheckpointError, match="began with other students"):
        train(lamp, run, replace(options, init=started, resume=True))
    interrupted(lamp, run, replace(options, resume=True), steps=3)  # after an epoch, that run is not needed
    train(lamp, run, replace(options, init=None, resume=True))
    assert_same(run, started)
    assert Run(run).config.init == Run(started).config.init


def test_the_run_is_recorded_with_its_absolute_path(source, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert StudentsOfRun(Path(source.name)).record.run == str(source)


def _longer(run: Path) -> bytes:
    config = Run(run).config
    recipe = msgspec.structs.replace(config.recipe, epochs=config.recipe.epochs + 9)
    return encode_record(msgspec.structs.replace(config, recipe=recipe))


def test_from_the_first_epoch_on_the_command_that_began_it_resumes_it_without_that_run(lamp, source, tmp_path):
    earlier = Path(shutil.copytree(source, tmp_path / "earlier"))
    run, options = tmp_path / "run", replace(STILL, epochs=2, init=earlier)
    interrupted(lamp, run, options, steps=1)
    earlier.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="there is no run folder"):
        train(lamp, run, replace(options, resume=True))
    (tmp_path / "moved").rename(earlier)
    interrupted(lamp, run, replace(options, resume=True), steps=3)
    (earlier / "run.json").write_bytes(_longer(earlier))  # it is extended meanwhile
    interrupted(lamp, Path(shutil.copytree(run, tmp_path / "again")), replace(options, resume=True), steps=1)
    earlier.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="there is no run folder") as caught:
        train(lamp, run, replace(options, init=tmp_path / "other", resume=True))
    assert caught.value.fix == "leave out `init`: there is an epoch to resume from"
    assert train(lamp, run, replace(options, resume=True)).run.checkpoint("last").epoch == 2


def test_a_run_that_began_with_random_students_takes_no_others(dataset, source, started, tmp_path):
    run = Path(shutil.copytree(source, tmp_path / "run"))
    with pytest.raises(CheckpointError, match="began with other students") as caught:
        train(dataset, run, replace(TINY, init=started, resume=True))
    assert caught.value.expected == "random students"


def test_a_compact_teacher_is_taken_over(dataset, lamp, tmp_path):
    compact = train(dataset, tmp_path / "compact", replace(COMPACT, epochs=1, teacher_epochs=1)).run
    options = replace(STILL, backbone=None, weights="imagenet", init=compact.path)
    config = train(lamp, tmp_path / "run", options).run.config
    assert config.teacher_sha256 == compact.config.teacher_sha256
    assert config.recipe.heads == compact.config.recipe.heads
    assert not (tmp_path / "run/teacher").exists()
    begun = replace(options, epochs=2)
    interrupted(lamp, tmp_path / "begun", begun, steps=3)  # after an epoch, that run is not needed
    compact.path.rename(tmp_path / "moved")
    resumed = shutil.copytree(tmp_path / "begun", tmp_path / "again")
    for out, init in ((tmp_path / "begun", None), (resumed, compact.path)):
        extended = train(lamp, out, replace(begun, init=init, resume=True)).run
        assert extended.checkpoint("last").epoch == 2
        assert extended.config.teacher_sha256 == config.teacher_sha256
    (tmp_path / "moved").rename(compact.path)
    with pytest.raises(OptionError, match="holds a compact teacher and no students"):
        train(lamp, tmp_path / "other", replace(STILL, init=compact.path / "teacher"))
