"""A training run on disk: its configuration, golden images and checkpoints."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from msgspec import UNSET

from kd_train.training.checkpoints import (
    Checkpoint,
    Checkpoints,
    EpochRecord,
    Restart,
    Tensors,
    read_run_record,
)
from kd_train.training.distilled_teacher import TEACHER_FILE, TEACHER_FOLDER, DistilledTeacher
from kd_train.training.run_command import continuing_command
from kd_train.training.run_config import NEWEST_SCHEMA, SCHEMA, TRAINING_PACKAGES, RunConfig, current_versions
from kd_train.training.run_lock import GOLDEN, RunLock
from kdx.bundle.manifest import INDEX, Int8Students, Provenance, unfinished
from kdx.errors import CheckpointError, OptionError
from kdx.imaging.field_of_view import Crop, require_inside
from kdx.imaging.images import ChannelOrder, InputSpec
from kdx.remarks import Remark
from kdx.runtime.machine import package_versions
from kdx.storage.files import new_folder, write_atomic
from kdx.storage.json_records import INT8_FOLDER, RUN_INDEX, encode_record, now, run_to_export
from kdx.text import number_of


class Run:
    """A run folder.

    Args:
        path: The folder, which contains ``run.json``.

    Raises:
        CheckpointError: There is no ``run.json``, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path)
        if not path.is_dir():
            raise CheckpointError(f"there is no run folder '{path}'", fix="make one: kdx train")
        if not (path / RUN_INDEX).is_file():
            reason = " but a bundle" if (path / INDEX).is_file() else f": '{RUN_INDEX}' is missing"
            raise CheckpointError(f"'{path}' is not a run folder{reason}", fix="name a folder that kdx train wrote")
        again = "train again"
        if run_to_export(path) != path:
            again = f"quantise the run again: {shlex.join(['kdx', 'quantize', str(path.parent), '--force'])}"
        self.config = read_run_record(path / RUN_INDEX, RunConfig, "kdx train", NEWEST_SCHEMA, fix=again)

    @staticmethod
    def create(path: Path, config: RunConfig, golden: Mapping[str, bytes], run_lock: RunLock, *, force: bool) -> Run:
        """Write and lock golden images and ``run.json`` in one step; ``force`` replaces a run."""
        with new_folder(path, force=force) as folder:
            (folder / GOLDEN).mkdir()
            run_lock.take(folder, path)  # before the folder has its name, so that nobody is faster
            for name, data in golden.items():
                (folder / GOLDEN / name).write_bytes(data)
            (folder / RUN_INDEX).write_bytes(encode_record(config))
        return Run(path)

    def checkpoint(self, which: str) -> Checkpoint:
        """Return the ``last`` or ``best`` checkpoint's record.

        Raises:
            CheckpointError: No epoch was completed, or the record cannot be read.
        """
        if not any((self.path / f"{name}.json").exists() for name in ("last", "best")):
            fix = self.how_to_continue
            if self.config.distilled is not None and self.config.quantized is UNSET:
                command = shlex.join(["kdx", "train", "DATA", "--teacher-from", str(self.path)])
                nothing_left = self.config.command == "distil"
                fix = f"use its compact teacher: {command}" + ("" if nothing_left else f"; or {fix}")
            raise CheckpointError(f"no epoch of '{self.path}' was completed{self._kept_of_teacher}", fix=fix)
        return self.checkpoints.record(which)

    def remarks(self) -> list[Remark]:
        """Return a remark on a training that was not finished."""
        with contextlib.suppress(CheckpointError):  # whoever needs a checkpoint says so
            epochs, planned = self._epochs, self.config.recipe.epochs
            if epochs < planned:
                lack = "its maps have no border weights, which its end measures; " if self._lacks_border_weights else ""
                return unfinished(epochs, planned, lack + self.how_to_continue)
            if self._lacks_border_weights:
                text = f"trained, but border weights were not measured: {self.how_to_continue}"
                return [Remark(kind="unfinished_training", text=f"epochs {text}", count=epochs, first=())]
        return []

    @property
    def _epochs(self) -> int:
        """The number of complete epochs, as far as the records can be read."""
        with contextlib.suppress(CheckpointError):
            return self.checkpoint("last").epoch
        return self.checkpoint("best").epoch

    @property
    def _kept_of_teacher(self) -> str:
        """What messages add where the run's own compact teacher is still learning."""
        from kd_train.training.kept_epochs import describe_kept

        is_learning = self.config.distilled is None and (self.path / TEACHER_FOLDER / "last.json").exists()
        return f"; {describe_kept(self.path)}" if is_learning else ""

    def require_finished(self) -> None:
        """Check that all epochs were completed, and border weights measured where there are any.

        Raises:
            CheckpointError: They were not; it says how to continue.
        """
        epochs, planned = self.checkpoint("last").epoch, self.config.recipe.epochs
        if epochs < planned:
            raise CheckpointError(
                f"the training of '{self.path}' is not finished",
                expected=number_of(planned, "[epoch|epochs]"),
                received=str(epochs),
                fix=self.how_to_continue,
            )
        if self._lacks_border_weights:
            raise CheckpointError(
                f"the border weights of '{self.path}' were not measured: its training was interrupted at its end",
                fix=self.how_to_continue,
            )

    @property
    def _lacks_border_weights(self) -> bool:
        return self.config.recipe.border_weights and self.config.border_weights is UNSET

    def int8(self, which: str | None = None) -> Run | None:
        """Return the INT8 stage of this run, or None where there is none.

        Args:
            which: The checkpoint that is deployed, ``last`` or ``best``; None for the one that the
                recipe names.

        Raises:
            CheckpointError: The stage is not finished, or came from another checkpoint.
        """
        if not (self.path / INT8_FOLDER / RUN_INDEX).exists():
            return None
        stage = Run(self.path / INT8_FOLDER)
        again = shlex.join(["kdx", "quantize", str(self.path), "--force"])
        quantized = stage.config.quantized
        if quantized is UNSET:
            raise CheckpointError(f"the networks of '{stage.path}' are FP32", fix=f"quantise the run: {again}")
        stage.require_finished()
        checkpoint = self.checkpoint(which or self.config.recipe.checkpoint)
        came_from = quantized.checkpoint_sha256, quantized.teacher_sha256
        if came_from != (checkpoint.sha256, self.config.teacher_sha256):
            is_usual = quantized.checkpoint_sha256 == self.checkpoint(self.config.recipe.checkpoint).sha256
            raise CheckpointError(
                f"the INT8 networks of '{stage.path}' came from another checkpoint",
                expected=f"checkpoint {checkpoint.sha256[:16]}, epoch {checkpoint.epoch}",
                received=f"checkpoint {quantized.checkpoint_sha256[:16]}, epoch {quantized.epoch}",
                fix="leave out `checkpoint`" if is_usual else f"quantise the run again: {again}",
            )
        return stage

    @property
    def how_to_continue(self) -> str:
        """The advice on how to continue the training."""
        if self.config.quantized is not UNSET:
            return f"continue it: {self.quantize_command('--resume', self.config.recipe.epochs)}"
        if not self.config.data:
            return "continue with the catalogue that began it: kdx train-many"
        return continuing_command(self.path, self.config)

    def quantize_command(self, how: str, epochs: int) -> str:
        """Return the command that trains this INT8 stage, with its other options.

        Args:
            how: ``--resume`` or ``--force``.
            epochs: The number of epochs.
        """
        quantized, command = self.config.quantized, ["kdx", "quantize", str(self.path.parent), how]
        assert quantized is not UNSET
        command += ["--epochs", str(epochs), "--learning-rate", f"{self.config.recipe.learning_rate!r}"]
        command += ["--headroom", f"{quantized.headroom!r}"]
        if self.config.data != Run(self.path.parent).config.data:
            command += ["--data", self.config.data]
        return shlex.join(command)

    @property
    def distillation_seconds(self) -> float:
        """The seconds in which this run's own compact teacher learnt; 0 without one."""
        own = self.config.distilled if (self.path / TEACHER_FOLDER).is_dir() else None
        return own.seconds if own is not None else 0.0

    def tensors(self, checkpoint: Checkpoint | Restart) -> Tensors:
        """Read the pair's tensors at a checkpoint, including the teacher's, and check their hashes.

        At a restart before the first epoch there are only the teacher's, if they were written.
        """
        teacher = self.checkpoints.read(self.config.teacher, self.config.teacher_sha256)
        return {**teacher, **self.checkpoints.read(checkpoint.file, checkpoint.sha256)}

    def keep_teacher(self, tensors: Tensors, distilled: DistilledTeacher | None = None) -> None:
        """Write the teacher, which never changes, unless ``run.json`` names it already."""
        if self.config.teacher:
            return
        name, sha256 = self.checkpoints.write(TEACHER_FILE, tensors)
        self.config = msgspec.structs.replace(
            self.config,
            schema=max(SCHEMA, self.config.schema),
            teacher=name,
            teacher_sha256=sha256,
            distilled=distilled,
        )
        write_atomic(self.path / RUN_INDEX, encode_record(self.config))

    def keep_border_weights(self, weights: tuple[tuple[float, ...], ...]) -> None:
        """Write the border weights of the finished training."""
        self.config = msgspec.structs.replace(self.config, schema=NEWEST_SCHEMA, border_weights=weights)
        write_atomic(self.path / RUN_INDEX, encode_record(self.config))

    def save(self, students: Tensors, optimiser: Tensors | None, history: list[EpochRecord], *, best: bool) -> None:
        """Write an epoch's checkpoint, see :meth:`.Checkpoints.save`."""
        record = Checkpoint(
            file="",
            sha256="",
            epoch=history[-1].epoch,
            history=history,
            spec=self.config.pair_spec,
            recipe=self.config.recipe,
            data_sha256=self.config.data_sha256,
            versions=dict(current_versions()),
        )
        self.checkpoints.save(record, students, optimiser, self.config.teacher_sha256, best=best)

    def input_for(
        self, camera: tuple[int, int] | None, channel_order: ChannelOrder = "rgb", crop: Crop | None = None
    ) -> InputSpec:
        """Return the input for a camera.

        Args:
            camera: The height and width of its frames; None for those of the run.
            channel_order: The order of its channels.
            crop: The window of its frames that the networks see; None for the run's.

        Raises:
            OptionError: The window is not inside of the frames, or the run has one in other frames.
        """
        spec = msgspec.structs.replace(self.config.input, channel_order=channel_order)
        size = camera or (spec.height, spec.width)
        if spec.crop is not UNSET and size != (spec.height, spec.width):
            raise OptionError(
                "the run was trained on a window of frames of another size",
                expected=f"{spec.height}x{spec.width}",
                received=f"`input_size={size[0]}x{size[1]}`",
                fix="leave out `input_size`, or train on frames of this camera",
            )
        if crop is not None:
            if camera is None and not spec.fixed_size:
                raise OptionError(
                    "the run's images have several sizes: the window `crop` needs the size of the camera's frames",
                    fix="give `input_size`",
                )
            spec = msgspec.structs.replace(spec, crop=UNSET)
        if camera is not None:
            spec = msgspec.structs.replace(spec, height=camera[0], width=camera[1], fixed_size=True)
        return spec if crop is None else msgspec.structs.replace(spec, crop=require_inside(crop, size))

    def provenance(self, checkpoint: Checkpoint) -> Provenance:
        """Return the provenance of a checkpoint for a bundle."""
        return Provenance(
            created=now(),
            checkpoint_sha256=checkpoint.sha256,
            epoch=checkpoint.epoch,
            backbone=self.config.backbone,
            weights=self.config.weights,
            data_sha256=self.config.data_sha256,
            trained_with=checkpoint.versions,
            exported_with=package_versions(TRAINING_PACKAGES),
            planned_epochs=self.config.recipe.epochs if self.remarks() else None,
            teacher_comparisons=self.config.distilled.comparisons if self.config.distilled else [],
            earlier_images=0 if self.config.init is UNSET else self._earlier_images,
            cycles=self._cycles_until(checkpoint.epoch),
        )

    def _cycles_until(self, epoch: int) -> list[int]:
        """Return the epochs of each cycle that began before an epoch; none for a single one."""
        cycles = [] if self.config.cycles is UNSET else self.config.cycles
        begun = [cycle.epochs for cycle in cycles if cycle.after < epoch]
        return begun if len(begun) > 1 else []

    @property
    def _earlier_images(self) -> int:
        """The number of images that only runs were trained on from which this one started."""
        return len({each.file for each in self.config.trained_on or []} - {*self.config.train_images.values()})

    def int8_origin(self, checkpoint: Checkpoint) -> Int8Students:
        """Return the origin of the students of this INT8 stage for a bundle."""
        quantized = self.config.quantized
        assert quantized is not UNSET
        return Int8Students(
            checkpoint_sha256=checkpoint.sha256,
            teacher_sha256=quantized.teacher_sha256,
            epoch=checkpoint.epoch,
            headroom=quantized.headroom,
            residual_additions=quantized.plan.residual_additions,
        )

    def golden_files(self) -> list[Path]:
        """Return the golden images' paths.

        Raises:
            CheckpointError: ``run.json`` names a file outside the run.
        """
        outside = [name for name in self.config.golden if Path(name).name != name]
        if outside:
            raise CheckpointError(f"'{self.path}' names a file outside the run: '{outside[0]}'")
        return [self.path / GOLDEN / name for name in self.config.golden]


def check_device(name: str) -> torch.device:
    """Return a device that exists.

    Raises:
        OptionError: The device is unknown, or this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(
            f"the device '{name}' cannot be used: {str(error).splitlines()[0]}", expected="auto, cpu, cuda or cuda:N"
        ) from error
    return device
