"""Training the students of a run, and what a training returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec import UNSET

from kd_train.data.damage import StudentDamage
from kd_train.data.image_records import BadImages
from kd_train.data.image_set import ImageSet
from kd_train.models.pair import Pair
from kd_train.training.border_weights import measure_border_weights
from kd_train.training.checkpoints import EpochRecord
from kd_train.training.extended_run import describe_cycles
from kd_train.training.gpu_memory import room_on_gpu
from kd_train.training.options import TrainOptions
from kd_train.training.profile import Profiler, TrainingProfile
from kd_train.training.run_config import RunConfig, other_versions
from kd_train.training.run_folder import Run
from kd_train.training.trainer import Trainer
from kdx.errors import OptionError
from kdx.imaging.image_size import show_size
from kdx.progress import Progress
from kdx.remarks import Remark
from kdx.text import number_of


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        run: The run folder.
        history: The records of all epochs.
        bad_images: The images that could not be used, with the reason for each.
        remarks: The remarks on images that were left out or are unusual.
        resumed_after: The epoch after which a resumed run continued; 0 if it began with the first.
        trained_again: The number of later epochs that were trained again because the optimiser's
            state had not been written.
        int8: The result of the INT8 stage of the run; None where none was asked for.
        profile: The time by stage; None where it was not asked for.
    """

    run: Run
    history: list[EpochRecord]
    bad_images: dict[Path, str]
    remarks: list[Remark]
    resumed_after: int = 0
    trained_again: int = 0
    int8: TrainResult | None = None
    profile: TrainingProfile | None = None

    def record(self) -> dict[str, Any]:
        """Return what was trained, as ``kdx train --json`` prints it; the remarks are left out."""
        config, quantized = self.run.config, self.run.config.quantized
        record: dict[str, Any] = {
            "run": str(self.run.path),
            "backbone": config.backbone,
            "weights": config.weights,
            "compact_teacher": config.distilled,
            "train_images": len(config.train_images),
            "held_out_images": len(config.validation_images),
            "bad_images": self.bad_images,
        }
        if self.history:
            last = self.history[-1]
            record |= {
                "epochs": last.epoch,
                "train_loss": last.train_loss,
                "validation_loss": last.validation_loss,
                "seconds": sum(each.seconds for each in self.history),
                "resumed_after": self.resumed_after,
                "trained_again": self.trained_again,
            }
        if config.cycles is not UNSET:
            record["cycles"] = [cycle.epochs for cycle in config.cycles]
        if config.init is not UNSET:
            record["init"] = config.init
        if quantized is not UNSET:
            record["quantized"] = {
                "operations": len(quantized.plan.nodes),
                "headroom": quantized.headroom,
                "images": quantized.images,
                "defects": quantized.defects,
            }
        if self.profile is not None:
            record["profile"] = self.profile
        return record if self.int8 is None else {**record, "int8": self.int8.record()}

    def describe(self) -> list[str]:
        """Return lines that say what was trained, without the INT8 stage."""
        config, quantized = self.run.config, self.run.config.quantized
        network = f"{config.backbone} ({config.weights})"
        if not self.history:
            return [network, *(config.distilled.describe() if config.distilled else [])]
        lines = [f"{config.method}, {network}"]
        if quantized is not UNSET:
            lines = [f"{lines[0]}, INT8", quantized.describe()]
        else:
            lines += [config.pair_spec.describe(), *(config.distilled.describe() if config.distilled else [])]
        if self.resumed_after or self.trained_again:
            again = f", training {number_of(self.trained_again, '[epoch|epochs]')} again" if self.trained_again else ""
            lines.append(f"resumed after epoch {self.resumed_after}{again}")
        lines += describe_cycles(config)
        if config.init is not UNSET:
            lines.append(f"started from the students of {config.init.run}, epoch {config.init.epoch}")
        last = self.history[-1]
        return [
            *lines,
            f"{number_of(len(config.train_images), '[image|images]')} trained on, "
            f"{len(config.validation_images)} held out, at {show_size(config.recipe.image_size)}",
            f"epoch {last.epoch}: training loss {last.train_loss:.4f}, held-out loss {last.validation_loss:.4f}",
        ]


def train_students(
    pair: Pair,
    run: Run,
    train: ImageSet,
    held_out: ImageSet,
    options: TrainOptions,
    *,
    device: torch.device,
    bad: BadImages,
    remarks: list[Remark],
    task: str,
    progress: Progress,
    profiler: Profiler | None = None,
    lower_rate: str = "",
) -> TrainResult:
    """Train the students of a pair, or continue where the run stopped.

    Args:
        pair: The pair; its students are trained in place.
        run: The run folder.
        train: The images to train on.
        held_out: The held-out good images.
        options: Whether the run is resumed, and the memory for cached features.
        device: The device to train on.
        bad: The images that could not be used.
        remarks: The remarks for the result.
        task: What the progress display calls the training.
        progress: The progress display.
        profiler: What measures the time of each stage.
        lower_rate: How the user trains at a lower learning rate; empty: by `learning_rate`.

    Raises:
        TrainingError: The loss is not finite, or a GPU has too little memory.
    """
    # Another stage's batches have no option.
    with room_on_gpu(None if lower_rate else run.config.recipe.batch_size):
        trainer = Trainer(
            pair,
            run,
            train,
            held_out,
            device=device,
            memory_mib=options.memory_mib,
            damage=_damage(run.config, pair),
            task=task,
            progress=progress,
            profiler=profiler,
            lower_rate=lower_rate,
        )
        if options.resume:
            trainer.resume()
            if len(trainer.history) < run.config.recipe.epochs:
                remarks = [*remarks, *other_versions(run.config)]
        history = trainer.fit()
    if run.config.recipe.border_weights and run.config.border_weights is UNSET:
        with trainer.profiler.stage("border weights"):
            run.keep_border_weights(measure_border_weights(run, train, progress))
    return TrainResult(run, history, bad.reasons, remarks, trainer.resumed_after, trainer.trained_again)


def require_effect_of_damage(config: RunConfig, pair: Pair) -> None:
    """Check before a training that damage, if there is any, reaches the students.

    Raises:
        OptionError: The students of this method do not see it.
    """
    if config.recipe.damage and not pair.sees_image and type(pair).compare_damaged is Pair.compare_damaged:
        raise OptionError(
            f"`damage` has no effect on the method '{config.method}'",
            expected="a method whose students take the image, or that overrides compare_damaged",
            received=f"`damage={config.recipe.damage:g}`",
            fix="pass `damage=0`, which the recipe of a compact teacher does not",
        )


def _damage(config: RunConfig, pair: Pair) -> StudentDamage | None:
    """Return the damage that the students see, or None."""
    if not config.recipe.damage:
        return None
    return StudentDamage(config.recipe.damage, config.seed, config.mean, config.std, colour=config.input.channels == 3)
