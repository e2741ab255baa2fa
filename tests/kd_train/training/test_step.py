"""A step of training on a device that computes while the CPU prepares, and in BF16."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from msgspec import UNSET
from torch import nn

from kd_export.graph.int8 import Int8Plan
from kd_train.data.damage import StudentDamage
from kd_train.data.image_set import ImageSet
from kd_train.training import step_losses
from kd_train.training.feature_cache import FeatureCache
from kd_train.training.options import TrainOptions
from kd_train.training.run_config import Quantized
from kd_train.training.run_folder import Run
from kd_train.training.step_losses import StepLosses
from kd_train.training.train import train
from kd_train.training.trained_pair import load_pair
from kd_train.training.trainer import Trainer
from kdx.errors import TrainingError
from tests.pairs import make_pair
from tests.tiny_training import TINY

CPU = torch.device("cpu")
# Its tensors have no values: whatever reads one fails, as it would make the CPU wait for a GPU.
META = torch.device("meta")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pictures:
    """Six images without files."""

    def __len__(self) -> int:
        return 6

    def batches(self, indices: list[list[int]]):
        yield from (torch.full((len(batch), 64, 64, 3), 7, dtype=torch.uint8) for batch in indices)

    vary = ImageSet.vary


def trainer_of(run: Path, device: torch.device, damage: float = 0.0) -> Trainer:
    """A trainer of a run's pair that goes no further than its steps."""
    opened = Run(run)
    pair, _ = load_pair(opened)
    drawn = StudentDamage(damage, 0, MEAN, STD, colour=True) if damage else None
    return Trainer(pair, opened, Pictures(), Pictures(), device=device, memory_mib=64, damage=drawn)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", [0.0, 0.7])
@pytest.mark.parametrize("is_cached", [False, True])
def test_no_step_reads_what_the_device_computes(tiny_run, damage, is_cached):
    trainer = trainer_of(tiny_run, META, damage)
    with torch.no_grad():
        features = trainer.pair.teacher_features(torch.empty(6, 3, 64, 64, device=META))
    batches = [[0, 1, 2], [3, 4, 5]]
    losses = list(trainer._train_epoch(1, batches, FeatureCache(features) if is_cached else None))
    assert [loss.device.type for loss in losses] == ["meta", "meta"]
    with pytest.raises((RuntimeError, NotImplementedError)):
        losses[0].detach().item()


def test_an_int8_stage_draws_what_the_fp32_epochs_did_not(tiny_run):
    run, seen = Run(tiny_run), []
    origin = Quantized(
        checkpoint_sha256="", teacher_sha256="", epoch=90, headroom=1.0, images=1, defects=0, plan=Int8Plan({})
    )
    pair, _ = load_pair(run)
    orders = []
    for quantized in (UNSET, origin):
        run.config = msgspec.structs.replace(run.config, quantized=quantized)
        trainer = Trainer(
            pair, run, Pictures(), Pictures(), device=META, memory_mib=64,
            damage=lambda x, indices, epoch: seen.append(epoch) or x,
        )  # type: ignore[arg-type]  # fmt: skip
        orders.append([trainer._shuffled(epoch) for epoch in range(1, 9)])
        list(trainer._train_epoch(3, [[0, 1, 2]], None))
    assert seen == [3, 93]
    assert not any(order in orders[0] for order in orders[1])


@pytest.mark.parametrize("advice", ["", "quantise again"])
def test_the_fix_of_a_loss_that_is_not_finite_is_an_option_that_exists(tiny_run, advice):
    pair, run = load_pair(Run(tiny_run))[0], Run(tiny_run)
    pictures = Pictures()
    trainer = Trainer(pair, run, pictures, pictures, device=CPU, memory_mib=64, lower_rate=advice)  # type: ignore[arg-type]
    for is_first, fix in (
        (False, advice or "train with a lower `learning_rate` than 0.05"),
        (True, "no weight was changed yet: look at the images and at the weights of the teacher"),
    ):
        with pytest.raises(TrainingError) as caught:
            trainer._not_finite("the loss became nan", is_first)
        assert caught.value.fix == fix


def test_losses_of_a_cpu_are_known_after_each_step():
    losses = StepLosses([4, 4, 2], CPU)
    assert losses.latest is None
    for value in (1.0, 0.5, 0.25):
        losses.add(torch.tensor(value))
        assert losses.latest == value
    assert losses.mean() == pytest.approx((4 * 1.0 + 4 * 0.5 + 2 * 0.25) / 10)
    assert losses.failed is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("step", "known_after"), [(0, 3), (2, 3), (4, 6), (7, 8)])
def test_the_first_loss_that_is_not_finite_is_named_however_late_it_is_read(monkeypatch, bad, step, known_after):
    monkeypatch.setattr(step_losses, "_STEPS_UNREAD", 3)
    losses = StepLosses([1] * 8, META)
    losses._values = torch.zeros(8)  # values that can be read, with the habits of another device
    for count in range(1, known_after + 1):
        assert losses.failed is None
        losses.add(torch.tensor(bad if count > step else 1.0))
    assert losses.failed is not None
    assert losses.failed[0] == step
    assert math.isfinite(losses.failed[1]) is False
    assert losses.latest is not None


def test_features_of_a_gpu_take_their_share_of_its_memory_then_the_hosts(tiny_run):
    trainer = trainer_of(tiny_run, CPU)
    trainer.device, trainer.gpu_bytes = torch.device("cuda"), 100 * 2**20
    assert trainer._room_for(60 * 2**20) == torch.device("cuda")
    assert trainer._room_for(41 * 2**20) == CPU  # 40 MiB of the GPU are left
    assert trainer._room_for(40 * 2**20) == torch.device("cuda")
    assert trainer._room_for(24 * 2**20) is None  # 23 of the 64 MiB of this trainer are left
    assert trainer._room_for(23 * 2**20) == CPU


def test_features_for_which_a_gpu_has_no_room_are_kept_in_memory(tiny_run, monkeypatch):
    trainer = trainer_of(tiny_run, CPU)
    trainer.device, trainer.gpu_bytes = torch.device("cuda"), 100 * 2**20
    empty = torch.empty

    def full(*shape: int, device: torch.device) -> torch.Tensor:
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return empty(*shape, device=device)

    batch = [torch.zeros(2, 3, 8, 8), torch.zeros(2, 5, 4, 4)]
    monkeypatch.setattr(torch, "empty", full)
    features = trainer._allocate(batch, 6)
    assert features is not None
    assert [(feature.shape, feature.device) for feature in features] == [((6, 3, 8, 8), CPU), ((6, 5, 4, 4), CPU)]
    assert trainer.cache_bytes == 64 * 2**20 - sum(feature.nbytes for feature in features)
    trainer.gpu_bytes, trainer.cache_bytes = 100 * 2**20, 0
    assert trainer._allocate(batch, 6) is None


def test_memory_that_an_earlier_training_left_counts_as_free(tiny_run, monkeypatch):
    trainer = trainer_of(tiny_run, CPU)
    trainer.device = torch.device("cuda")
    called: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("empty_cache"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: called.append("mem_get_info") or (100, 200))

    def stop(images: object, name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_cache_teacher", stop)
    with pytest.raises(KeyboardInterrupt):
        trainer._fit()
    assert called == ["empty_cache", "mem_get_info"]
    assert trainer.gpu_bytes == 50


def types_of_convolutions(monkeypatch) -> list[tuple[bool, torch.dtype]]:
    """Record whether each convolution trains, and in what it computes."""
    seen: list[tuple[bool, torch.dtype]] = []
    forward = nn.Conv2d.forward

    def recorded(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        y = forward(self, x)
        seen.append((self.weight.requires_grad and torch.is_grad_enabled(), y.dtype))
        return y

    monkeypatch.setattr(nn.Conv2d, "forward", recorded)
    return seen


@pytest.mark.parametrize("is_mixed", [False, True])
def test_what_learns_is_computed_in_bf16_and_the_rest_in_fp32(dataset, tmp_path, monkeypatch, is_mixed):
    seen = types_of_convolutions(monkeypatch)
    train(dataset, tmp_path / "run", replace(TINY, mixed_precision=is_mixed))
    assert {kind for learns, kind in seen if learns} == {torch.bfloat16 if is_mixed else torch.float32}
    # The teacher, and the students on held-out images.
    assert {kind for learns, kind in seen if not learns} == {torch.float32}
    run = Run(tmp_path / "run")
    assert run.config.recipe.mixed_precision is is_mixed
    pair, _ = load_pair(run)
    assert {value.dtype for value in pair.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_bf16_learns_as_much(dataset, tmp_path):
    options = replace(TINY, epochs=6)
    whole, mixed = tmp_path / "whole", tmp_path / "mixed"
    train(dataset, whole, options)
    train(dataset, mixed, replace(options, mixed_precision=True))
    losses = [[each.validation_loss for each in Run(run).checkpoint("last").history] for run in (whole, mixed)]
    assert losses[0] != losses[1]
    assert losses[1][-1] < losses[1][0]
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.05)  # BF16 has 8 bits


@pytest.mark.parametrize(
    ("method", "option"),
    [("reverse-distillation", {}), ("dskd", {"structure": "t-d"}), ("dual-det", {"part": "ae"}), ("dual", {})],
)
def test_students_of_the_teachers_features_get_those_of_fp32(method, option, monkeypatch):
    """They take the features of the damaged image, which are computed within the students' step."""
    pair = make_pair(method, "test_resnet", **option)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        targets = pair.teacher_features(x)
    teachers = set(pair.teacher.modules())
    seen: list[tuple[bool, torch.dtype]] = []
    forward = nn.Conv2d.forward

    def recorded(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        y = forward(self, x)
        seen.append((self in teachers, y.dtype))
        return y

    monkeypatch.setattr(nn.Conv2d, "forward", recorded)
    with torch.autocast("cpu", torch.bfloat16):
        pair.compare_damaged(x, targets)
    assert (True, torch.float32) in seen
    assert (True, torch.bfloat16) not in seen
    assert (False, torch.bfloat16) in seen


@pytest.mark.slow
def test_a_compact_teacher_learns_in_bf16_too_and_int8_students_do_not(dataset, tmp_path):
    options = replace(TINY, backbone="compact-s", teacher_from="test_resnet", teacher_epochs=1, mixed_precision=True)
    train(dataset, tmp_path / "run", replace(options, precision="int8"))
    run = Run(tmp_path / "run")
    assert run.config.recipe.mixed_precision
    recipes = {path.parent.name: Run(path.parent).config.recipe for path in run.path.rglob("run.json")}
    assert {name: recipe.mixed_precision for name, recipe in recipes.items()} == {
        "run": True, "teacher": True, "int8": False,
    }  # fmt: skip


def losses_on(device: torch.device, run: Path) -> list[float]:
    trainer = trainer_of(run, device, 0.5)
    return [float(loss) for loss in trainer._train_epoch(1, [[0, 1, 2], [3, 4, 5]], None)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_never_waited_for_within_an_epoch(tiny_run):
    trainer = trainer_of(tiny_run, torch.device("cuda"), 0.5)
    batches = [[0, 1, 2], [3, 4, 5]] * 4
    list(trainer._train_epoch(1, batches, None))  # copies to the device what stays there
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = list(trainer._train_epoch(2, batches, None))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(math.isfinite(float(loss)) for loss in losses)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_learns_what_a_cpu_does(tiny_run, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert losses_on(torch.device("cuda"), tiny_run) == pytest.approx(losses_on(CPU, tiny_run), rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_whole_training_on_a_gpu_with_features_on_it(dataset, tmp_path):
    options: TrainOptions = replace(TINY, device="cuda", epochs=2, damage=0.5, mixed_precision=True)
    result = train(dataset, tmp_path / "run", options)
    assert all(math.isfinite(each.validation_loss) for each in result.history)
