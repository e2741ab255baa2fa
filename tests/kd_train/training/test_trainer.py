"""Training: reproducible, resumable to the bit, and never without its last good checkpoint."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from PIL import Image

import kd_train.training.checkpoints
from kd_train.models.backbones import create_backbone
from kd_train.models.pair import Method
from kd_train.recipes import Recipe, load_recipe
from kd_train.training.losses import FeatureMatching
from kd_train.training.options import TrainOptions
from kd_train.training.run_folder import Run
from kd_train.training.train import train
from kd_train.training.trained_pair import load_pair
from kd_train.training.trainer import Trainer
from kdx.errors import CheckpointError, DataError, OptionError, TrainingError, WeightsError
from tests.tiny_training import TINY

SGD = replace(TINY, epochs=3)
# Six images are two steps an epoch. See one_cycle for what makes this Adam.
ADAM = replace(SGD, learning_rate=0.01)


class Interrupting:
    """Shows nothing, and presses Ctrl-C after so many steps of training."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Interrupting]:
        self.training = description == "training"
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        if self.training:
            self.steps -= steps
            if self.steps == 0:
                raise KeyboardInterrupt


TEACHER = "teacher.networks.0."  # what precedes timm's names in a checkpoint


def interrupted(data: Path, out: Path, options: TrainOptions, *, steps: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, out, options, Interrupting(steps))


def tensors(run: Path, which: str = "last") -> dict[str, torch.Tensor]:
    opened = Run(run)
    return opened.tensors(opened.checkpoint(which))


def assert_same(one: Path, other: Path, which: str = "last") -> None:
    """Equal to the last bit: weights, statistics, the optimiser's state, and every loss."""
    ours, theirs = (Run(path).checkpoint(which) for path in (one, other))
    a, b = tensors(one, which), tensors(other, which)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert (ours.sha256, ours.optimiser_sha256) == (theirs.sha256, theirs.optimiser_sha256)
    losses = [[(r.epoch, r.train_loss, r.validation_loss) for r in c.history] for c in (ours, theirs)]
    assert losses[0] == losses[1]


def fix_validation_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Make the held-out loss of each epoch what the test wants."""
    monkeypatch.setattr(Trainer, "_validation_loss", lambda self, cache: losses[len(self.history)])


@pytest.fixture(autouse=True, scope="module")
def one_cycle():
    """Train ``ADAM`` with the recipe of tf_efficientnet_lite0, which itself would take a minute."""

    def recipe(method: Method, overrides: Mapping[str, object]) -> Recipe:
        found = load_recipe(method, overrides)
        theirs = load_recipe(method, {"backbones": ("tf_efficientnet_lite0",)})
        assert (theirs.optimiser, theirs.schedule) == ("adam", "one-cycle")
        if found.learning_rate != ADAM.learning_rate:
            return found
        changes = {
            name: getattr(theirs, name) for name in ("optimiser", "schedule", "momentum", "betas", "weight_decay")
        }
        return msgspec.structs.replace(found, **changes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd_train.training.from_options.load_recipe", recipe)
        yield


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory, one_cycle) -> dict[str, Path]:
    """Runs of three epochs that nothing interrupted."""
    root = tmp_path_factory.mktemp("whole")
    for name, options in (("sgd", SGD), ("adam", ADAM)):
        train(dataset, root / name, options)
    assert Run(root / "sgd").config.recipe.momentum == 0.9
    assert Run(root / "adam").config.recipe.optimiser == "adam"
    return {"sgd": root / "sgd", "adam": root / "adam"}


@pytest.fixture
def sgd_copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole["sgd"], tmp_path / "run"))


# Reproducible


def test_a_seed_decides_everything(dataset, whole, tmp_path):
    torch.manual_seed(12345)  # whatever the process drew before
    train(dataset, tmp_path / "again", SGD)
    assert_same(tmp_path / "again", whole["sgd"])


def test_another_seed_is_another_run(dataset, whole, tmp_path):
    train(dataset, tmp_path / "other", replace(SGD, seed=1))
    assert Run(tmp_path / "other").checkpoint("last").sha256 != Run(whole["sgd"]).checkpoint("last").sha256


@pytest.mark.slow
def test_images_from_disk_train_like_images_in_memory(dataset, tmp_path):
    # Without a cache of the teacher's features in either: computing them in other batches rounds
    # differently.
    one = replace(SGD, epochs=1, memory_mib=0)
    train(dataset, tmp_path / "a", one)
    train(dataset, tmp_path / "b", replace(one, workers=1))
    assert_same(tmp_path / "a", tmp_path / "b")
    train(dataset, tmp_path / "c", replace(one, memory_mib=64))
    losses = [Run(tmp_path / name).checkpoint("last").history[0].train_loss for name in ("a", "c")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_student_learns_and_the_teacher_does_not(dataset, tmp_path):
    train(dataset, tmp_path / "run", replace(SGD, epochs=1))
    first = tensors(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    train(dataset, tmp_path / "run", replace(SGD, epochs=8))
    last = tensors(tmp_path / "run")
    assert all(torch.equal(first[name], last[name]) for name in first if name.startswith("teacher."))
    assert not all(torch.equal(first[name], last[name]) for name in first if name.startswith("student."))
    history = Run(tmp_path / "run").checkpoint("last").history
    assert history[-1].train_loss < history[0].train_loss


# Resumed


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 3, 5], ids=["end of epoch 1", "in epoch 2", "in epoch 3"])
@pytest.mark.parametrize(("name", "options"), [("sgd", SGD), ("adam", ADAM)])
def test_a_resumed_run_is_the_uninterrupted_one(dataset, whole, tmp_path, name, options, steps):
    interrupted(dataset, tmp_path / "run", options, steps=steps)
    train(dataset, tmp_path / "run", replace(options, resume=True))
    assert_same(tmp_path / "run", whole[name])
    assert_same(tmp_path / "run", whole[name], "best")


def test_a_run_may_be_interrupted_again_and_again(dataset, whole, tmp_path):
    interrupted(dataset, tmp_path / "run", ADAM, steps=3)
    interrupted(dataset, tmp_path / "run", replace(ADAM, resume=True), steps=3)
    train(dataset, tmp_path / "run", replace(ADAM, resume=True))
    assert_same(tmp_path / "run", whole["adam"])


def test_an_interruption_before_the_first_checkpoint_starts_again(dataset, whole, tmp_path):
    interrupted(dataset, tmp_path / "run", SGD, steps=1)
    train(dataset, tmp_path / "run", replace(SGD, resume=True))
    assert_same(tmp_path / "run", whole["sgd"])


def test_resuming_a_finished_run_changes_nothing(dataset, whole, sgd_copy):
    result = train(dataset, sgd_copy, replace(SGD, resume=True))
    assert [record.epoch for record in result.history] == [1, 2, 3]
    assert_same(sgd_copy, whole["sgd"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 0.1}, ["learning_rate"]),
        ({"taps": "layer1,layer2"}, ["taps"]),
        ({"blur_sigma": 1.0}, ["sigma"]),
        ({"method": "reverse-distillation"}, ["method"]),  # and not what follows from its recipe
        ({"seed": 1}, ["seed"]),
        ({"channels": "3"}, ["channels"]),
        ({"backbone": "test_resnet.r160_in1k"}, ["backbone"]),
        ({"backbone": "resnet18", "weights": "imagenet"}, ["backbone"]),  # and not that its weights are missing
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_resuming_with_other_options_names_them(dataset, sgd_copy, change, named):
    before = (sgd_copy / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match="cannot be resumed") as caught:
        train(dataset, sgd_copy, replace(SGD, resume=True, **change))
    assert f": {', '.join(named)} changed" in caught.value.message
    assert caught.value.expected != caught.value.received
    assert (sgd_copy / "run.json").read_bytes() == before


PLATEAU = replace(SGD, method="dual-loc", epochs=14, learning_rate=0.02)


def plateau_losses() -> list[float]:
    return [1.0] + [2.0] * 13  # never lower than in the first epoch


def test_the_learning_rate_falls_on_a_plateau(dataset, tmp_path, monkeypatch):
    rates = []
    save = Trainer._save
    monkeypatch.setattr(
        Trainer, "_save", lambda self, **kw: (rates.append(self.optimiser.param_groups[0]["lr"]), save(self, **kw))
    )
    fix_validation_losses(monkeypatch, plateau_losses())
    train(dataset, tmp_path / "run", PLATEAU)
    # PyTorch waits for more than ten epochs without a lower loss.
    assert rates == pytest.approx([0.02] * 11 + [0.002] * 3)


@pytest.mark.slow
def test_an_interrupted_plateau_continues_as_if_it_had_not_been(dataset, tmp_path, monkeypatch):
    fix_validation_losses(monkeypatch, plateau_losses())
    train(dataset, tmp_path / "whole", PLATEAU)
    interrupted(dataset, tmp_path / "cut", PLATEAU, steps=12 * 2)  # after the rate fell
    train(dataset, tmp_path / "cut", replace(PLATEAU, resume=True))
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_resuming_on_other_images_is_refused(dataset_copy, sgd_copy):
    for path in sorted((dataset_copy / "train/good").iterdir())[:4]:
        path.unlink()
    with pytest.raises(CheckpointError, match="resumed: it began with other images"):
        train(dataset_copy, sgd_copy, replace(SGD, resume=True))


def test_ctrl_c_before_a_run_folder_exists_proposes_no_resume(cli, dataset, tiny_options, tmp_path, monkeypatch):
    def press(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("kd_train.training.training_images.scan_images", press)
    stderr = cli("train", dataset, "-o", tmp_path / "run", *tiny_options, code=130).stderr
    assert "--resume" not in stderr
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_held_out_images_is_refused(dataset_copy, sgd_copy):
    held_out = dataset_copy / "train/good" / next(iter(Run(sgd_copy).config.validation_images))
    with Image.open(held_out) as image:
        image.point(lambda value: value // 2).save(held_out)
    with pytest.raises(CheckpointError, match="resumed: it began with other images") as caught:
        train(dataset_copy, sgd_copy, replace(SGD, resume=True))
    assert (caught.value.expected, caught.value.received) == ("the same 12 images", "11 of those, and 1 new")


def test_resuming_with_a_part_of_the_images_is_refused(dataset, sgd_copy):
    with pytest.raises(CheckpointError, match="resumed: it began with other images") as caught:
        train(dataset, sgd_copy, replace(SGD, resume=True, train_fraction=0.5))
    assert caught.value.received == "9 of those, and 0 new"


def test_resuming_with_weights_that_are_missing_names_those_of_the_run(dataset, sgd_copy):
    with pytest.raises(WeightsError, match="cannot be resumed with these weights") as caught:
        train(dataset, sgd_copy, replace(SGD, resume=True, weights="missing.pth"))
    assert Run(sgd_copy).config.weights in caught.value.expected
    assert "give the options that it began with" in caught.value.fix


def test_resuming_and_replacing_exclude_each_other(dataset, sgd_copy):
    with pytest.raises(OptionError, match="`resume` and `force` exclude each other"):
        train(dataset, sgd_copy, replace(SGD, resume=True, force=True))


def test_where_there_is_nothing_to_resume_a_note_says_so(cli, dataset, tiny_options, tmp_path):
    arguments = ("train", dataset, "-o", tmp_path / "run", "--epochs", 1, *tiny_options, "--resume", "--json")
    result = cli(*arguments)
    assert [(one["kind"], one["first"]) for one in result.json["remarks"]] == [
        ("nothing_to_resume", [str(tmp_path / "run")])
    ]
    assert "training begins with the first epoch" in result.stderr
    again = cli(*arguments)
    assert again.json["remarks"] == []
    assert "first epoch" not in again.stderr


def test_ctrl_c_before_a_run_is_replaced_proposes_no_resume(cli, dataset, run_copy, tiny_options, monkeypatch):
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kd_train.training.train.fuse", press)
    stderr = cli("train", dataset, "-o", run_copy, "--force", "--epochs", 1, *tiny_options, code=130).stderr
    assert "--resume" not in stderr


def test_the_command_that_continues_has_resume_and_no_force(cli, dataset, run_copy, tiny_options, monkeypatch):
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_validation_loss", press)
    run = run_copy.rename(run_copy.parent / "it's mine")
    options = ("--force", "--epochs", 2, *tiny_options)
    stderr = cli("train", "-o", run, *options, "--", dataset, code=130).stderr
    words = shlex.split(stderr.partition("continue with: ")[2])
    assert words[:2] == ["kdx", "train"]
    assert words[-3:] == ["--resume", "--", str(dataset)]
    assert str(run) in words
    assert "--force" not in words


def test_resuming_with_another_division_names_the_held_out_images(dataset, sgd_copy):
    with pytest.raises(CheckpointError, match="resumed: it held out other images") as caught:
        train(dataset, sgd_copy, replace(SGD, resume=True, group_by=r"(\d)\.png"))
    assert "`group_by`" in caught.value.fix


def test_ctrl_c_in_the_command_line_says_how_to_resume(cli, dataset, tiny_options, tmp_path, monkeypatch):
    arguments = ("train", dataset, "-o", tmp_path / "run", "--epochs", 2, *tiny_options)
    with monkeypatch.context() as patch:
        losses = iter([1.0])

        def press(self, cache):
            for loss in losses:
                return loss
            raise KeyboardInterrupt

        patch.setattr(Trainer, "_validation_loss", press)
        said, _, command = cli(*arguments, code=130).stderr.partition("continue with: kdx ")
    assert said.endswith("interrupted; 1 of 2 epochs of the students is kept; ")
    assert Run(tmp_path / "run").checkpoint("last").epoch == 1
    assert "resumed after epoch 1" in cli(*shlex.split(command)).stdout
    assert Run(tmp_path / "run").checkpoint("last").epoch == 2


# Checkpoints


def train_until_killed(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, *, before: str, epoch: int) -> None:
    """End the process, as far as the disk can tell, just before a file of some epoch is written."""
    real = kd_train.training.checkpoints.write_atomic
    seen = []

    def write(path: Path, data: bytes) -> None:
        seen.append(path.name)
        written_in_epoch = max([int(file[6:11]) for file in seen if file.startswith("epoch-")], default=0)
        if path.name == before and written_in_epoch == epoch:
            raise SystemExit
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(kd_train.training.checkpoints, "write_atomic", write)
        with pytest.raises(SystemExit):
            train(data, out, SGD)


def test_a_kill_between_tensors_and_record_leaves_the_previous_checkpoint(dataset, whole, tmp_path, monkeypatch):
    train_until_killed(monkeypatch, dataset, tmp_path / "run", before="last.json", epoch=2)
    assert len(list((tmp_path / "run").glob("epoch-00002*"))) == 2
    _, checkpoint = load_pair(Run(tmp_path / "run"))
    assert checkpoint.epoch == 1
    train(dataset, tmp_path / "run", replace(SGD, resume=True))
    assert_same(tmp_path / "run", whole["sgd"])
    assert len(list((tmp_path / "run").glob("epoch-*"))) <= 3  # what nobody names is gone


def test_a_kill_before_the_first_best_record_can_be_resumed(dataset, tmp_path, monkeypatch):
    fix_validation_losses(monkeypatch, [1.0, 2.0, 3.0])
    train_until_killed(monkeypatch, dataset, tmp_path / "run", before="best.json", epoch=1)
    train(dataset, tmp_path / "run", replace(SGD, resume=True))
    assert Run(tmp_path / "run").checkpoint("best").epoch == 1


def test_a_kill_before_a_best_record_does_not_lose_the_best(dataset, tmp_path, monkeypatch):
    fix_validation_losses(monkeypatch, [3.0, 1.0, 2.0])
    train_until_killed(monkeypatch, dataset, tmp_path / "run", before="best.json", epoch=2)
    train(dataset, tmp_path / "run", replace(SGD, resume=True))
    assert Run(tmp_path / "run").checkpoint("best").epoch == 2


def test_best_is_the_lowest_held_out_loss_and_last_is_the_last(dataset, tmp_path, monkeypatch):
    fix_validation_losses(monkeypatch, [3.0, 1.0, 2.0])
    train(dataset, tmp_path / "run", SGD)
    run = Run(tmp_path / "run")
    assert (run.checkpoint("last").epoch, run.checkpoint("best").epoch) == (3, 2)
    assert load_pair(run)[1].epoch == 3  # this recipe's choice
    assert load_pair(run, "best")[1].epoch == 2
    last, best = tensors(run.path), tensors(run.path, "best")
    assert any(not torch.equal(last[name], best[name]) for name in last)
    files = sorted((path.name[:11], ".optimiser" in path.name) for path in run.path.glob("epoch-*"))
    assert files == [("epoch-00002", False), ("epoch-00003", False), ("epoch-00003", True)]


def test_an_equal_loss_does_not_replace_the_best(dataset, tmp_path, monkeypatch):
    fix_validation_losses(monkeypatch, [1.0, 1.0, 1.0])
    train(dataset, tmp_path / "run", SGD)
    assert Run(tmp_path / "run").checkpoint("best").epoch == 1


@pytest.mark.slow
def test_export_takes_the_checkpoint_that_is_asked_for(cli, dataset, tmp_path, monkeypatch):
    fix_validation_losses(monkeypatch, [1.0, 2.0])
    train(dataset, tmp_path / "run", replace(SGD, epochs=2))
    record = cli("export", tmp_path / "run", "-o", tmp_path / "best.kdx", "--checkpoint", "best", "--json").json
    assert record["manifest"]["provenance"]["epoch"] == 1


def test_checkpoints_hold_timms_names(whole):
    state = tensors(whole["sgd"])
    parts = {p: {n.removeprefix(p) for n in state if n.startswith(p)} for p in (TEACHER, "student.")}
    assert sum(len(names) for names in parts.values()) == len(state)
    assert parts[TEACHER] == parts["student."]
    theirs = create_backbone("test_resnet").state_dict()
    behind_the_last_tap = ("layer4.", "fc.")
    assert parts[TEACHER] == {name for name in theirs if not name.startswith(behind_the_last_tap)}
    assert all(state[f"{TEACHER}{name}"].shape == theirs[name].shape for name in parts[TEACHER])


def test_a_teacher_taken_from_a_checkpoint_is_a_weights_file(dataset, whole, tmp_path):
    from safetensors.torch import save_file

    teacher = {n.removeprefix(TEACHER): v for n, v in tensors(whole["sgd"]).items() if n.startswith(TEACHER)}
    complete = {**create_backbone("test_resnet").state_dict(), **teacher}
    save_file(complete, tmp_path / "teacher.safetensors")
    options = replace(SGD, epochs=1, weights=str(tmp_path / "teacher.safetensors"))
    run = train(dataset, tmp_path / "run", options).run
    assert run.config.weights == "file teacher.safetensors"
    ours = tensors(run.path)
    assert all(torch.equal(ours[f"{TEACHER}{name}"], value) for name, value in teacher.items())


def test_the_run_records_what_it_was_made_from(dataset, whole):
    config = Run(whole["sgd"]).config
    assert len(config.train_images) == len(config.validation_images) == 6
    assert not set(config.train_images.values()) & set(config.validation_images.values())
    assert json.loads((whole["sgd"] / "run.json").read_text(encoding="utf-8"))["data"] == str(dataset)
    assert len(config.golden) == len(list((whole["sgd"] / "golden").iterdir())) == 5
    assert any("defective" in name for name in config.golden)
    assert {"kdx", "torch", "timm"} <= set(config.versions)


# A loss that is not finite


def spoil_loss(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Let the loss be NaN after a number of calls; an epoch has two of each kind."""
    real = FeatureMatching.forward
    calls = []

    def forward(self, compared):
        calls.append(1)
        return real(self, compared) * (float("nan") if len(calls) > after else 1.0)

    monkeypatch.setattr(FeatureMatching, "forward", forward)


@pytest.mark.slow
@pytest.mark.parametrize("after", [4, 5, 6], ids=["first step", "second step", "held-out"])
def test_nan_keeps_the_last_good_checkpoint(cli, dataset, tiny_options, tmp_path, monkeypatch, after):
    spoil_loss(monkeypatch, after=after)
    stderr = cli("train", dataset, "-o", tmp_path / "run", "--epochs", 3, *tiny_options, code=2).stderr
    where = {4: "the loss became nan in epoch 2, step 1", 5: "the loss became nan in epoch 2, step 2"}
    assert where.get(after, "the held-out loss became nan after epoch 2") in stderr
    assert "the checkpoint of epoch 1 is kept" in stderr
    assert "lower --learning-rate than 0.05" in stderr
    pair, checkpoint = load_pair(Run(tmp_path / "run"))
    assert checkpoint.epoch == 1
    assert all(torch.isfinite(value).all() for value in pair.state_dict().values())


def test_nan_in_the_first_epoch_says_that_nothing_was_saved(dataset, tmp_path, monkeypatch):
    spoil_loss(monkeypatch, after=0)
    with pytest.raises(TrainingError, match="nothing was saved yet") as caught:
        train(dataset, tmp_path / "run", SGD)
    assert caught.value.fix.startswith("no weight was changed yet: ")
    with pytest.raises(CheckpointError, match=r"no epoch of .* was completed"):
        load_pair(Run(tmp_path / "run"))


# Small sets


def test_three_images_are_enough(make_dataset, tmp_path):
    options = replace(SGD, epochs=1, validation_fraction=0.2)
    result = train(make_dataset(tmp_path / "data", train=3), tmp_path / "run", options)
    assert result.history[0].train_loss > 0


def test_a_single_image_at_the_end_of_an_epoch_is_left_out(make_dataset, tmp_path):
    options = replace(SGD, epochs=1, batch_size=2, validation_fraction=0.25)
    result = train(make_dataset(tmp_path / "data", train=4), tmp_path / "run", options)
    assert len(result.run.config.train_images) == 3
    assert result.history[0].train_loss > 0


def test_nothing_is_written_when_the_images_do_not_suffice(make_dataset, tmp_path):
    with pytest.raises(DataError):
        train(make_dataset(tmp_path / "data", train=2), tmp_path / "run", SGD)
    assert not (tmp_path / "run").exists()
