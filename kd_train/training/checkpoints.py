"""The checkpoints of a run: the teacher, the students of an epoch, the optimiser's state.

``last.json`` and ``best.json`` each name a file of the students' tensors and its hash; if the last
epoch is the best one, both name the same file. ``last.json`` also says where training resumes: at
its own epoch, or at the earlier epoch whose optimiser state was written last. Files of tensors are
written first, under a name that contains their hash. Then the record is replaced in one step, and
files that no record names are removed. So a run that is killed at any moment loads and resumes.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from kd_export.graph import PairSpec
from kd_train.recipes import Recipe
from kd_train.training.distilled_teacher import TEACHER_FILE
from kdx.errors import CheckpointError
from kdx.storage.files import remove_leftovers, sha256_bytes, write_atomic
from kdx.storage.hashed_file import HashedFile, require_file
from kdx.storage.json_records import RUN_INDEX, R, encode_record, read_record

Tensors = dict[str, Tensor]


class EpochRecord(msgspec.Struct, frozen=True):
    """The losses of one epoch, as means over images, and its seconds."""

    epoch: int
    train_loss: float
    validation_loss: float
    seconds: float


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """An epoch from which training can continue.

    Attributes:
        epoch: The number of completed epochs; 0 to start from the beginning.
        file: The file of the students' tensors at that epoch, or empty.
        sha256: The hash of ``file``.
        optimiser: The file of the optimiser's state at that epoch; empty if it has none.
        optimiser_sha256: The hash of ``optimiser``.
    """

    epoch: int = 0
    file: str = ""
    sha256: str = ""
    optimiser: str = ""
    optimiser_sha256: str = ""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``last.json`` or ``best.json``.

    Attributes:
        file: The file of the students' tensors by name; up to schema 2 also of the teacher's.
        sha256: The hash of ``file``. The file contains the hash of the teacher's file, so this hash
            identifies the whole pair.
        optimiser: The file of the optimiser's state at this epoch, or empty.
        optimiser_sha256: The hash of ``optimiser``.
        epoch: The number of completed epochs.
        history: The records of all epochs so far.
        spec: The declaration of the pair's maps.
        recipe: The hyper-parameters.
        data_sha256: One hash of all training images.
        versions: The versions of the packages with which the pair was trained.
        restart: The epoch from which training resumes; None for this one.
    """

    file: str
    sha256: str
    optimiser: str = ""
    optimiser_sha256: str = ""
    epoch: int
    history: list[EpochRecord]
    spec: PairSpec
    recipe: Recipe
    data_sha256: str
    versions: dict[str, str]
    restart: Restart | None = None

    @property
    def resumes_at(self) -> Restart:
        """The epoch from which training resumes."""
        return self.restart or Restart(
            epoch=self.epoch,
            file=self.file,
            sha256=self.sha256,
            optimiser=self.optimiser,
            optimiser_sha256=self.optimiser_sha256,
        )


class Checkpoints:
    """The checkpoints of a run folder.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self, which: str) -> Checkpoint:
        """Return the ``last`` or ``best`` checkpoint's record.

        Raises:
            CheckpointError: There is no such checkpoint, or it cannot be read.
        """
        return read_run_record(self.folder / f"{which}.json", Checkpoint, "kdx train --resume")

    def save(
        self, record: Checkpoint, students: Tensors, optimiser: Tensors | None, teacher: str, *, best: bool
    ) -> None:
        """Write the checkpoint of an epoch as ``last``, and as ``best`` if it is.

        Args:
            record: The epoch's record, without files.
            students: The tensors of the pair except the teacher's.
            optimiser: The optimiser's state, empty if it has none. With None it is not written, and
                training resumes from the same epoch as before.
            teacher: The hash of the teacher's file.
            best: Whether the epoch is the best so far.
        """
        file, sha256 = self.write(f"epoch-{record.epoch:05d}-{{}}.safetensors", students, teacher=teacher)
        record = msgspec.structs.replace(record, file=file, sha256=sha256)
        # best.json first: if training is killed in between, the epoch is trained again and is the
        # best one again.
        if best:
            write_atomic(self.folder / "best.json", encode_record(record))
        if optimiser is None:
            restart = self.record("last").resumes_at if (self.folder / "last.json").exists() else Restart()
            self._replace_last(msgspec.structs.replace(record, restart=restart))
        else:
            self._replace_last(self._with_optimiser(record, optimiser))

    def save_optimiser(self, optimiser: Tensors) -> None:
        """Write the optimiser's state of the last epoch, so that training resumes there."""
        self._replace_last(self._with_optimiser(self.record("last"), optimiser))

    def clean(self) -> None:
        """Remove files of tensors that no record names, and partial files of a killed process."""
        last = self.record("last")
        named = {last.file, last.resumes_at.file, last.resumes_at.optimiser, self.record("best").file}
        # The names of partial files begin with a dot.
        for file in (*self.folder.glob("epoch-*.safetensors"), *self.folder.glob(".epoch-*")):
            if file.name not in named:
                file.unlink()
        for name in (RUN_INDEX, TEACHER_FILE, "best.json", "last.json"):
            remove_leftovers(self.folder / name)

    def write(self, name: str, tensors: Tensors, **metadata: str) -> tuple[str, str]:
        """Write tensors to a file with their hash for ``{}`` in its name; return name and hash."""
        data = save_tensors(tensors, metadata=metadata or None)
        sha256 = sha256_bytes(data)
        name = name.format(sha256[:12])
        write_atomic(self.folder / name, data)
        return name, sha256

    def read(self, name: str, sha256: str) -> Tensors:
        """Read a file of tensors and check its hash; an empty name gives no tensors.

        Raises:
            CheckpointError: The file is missing, was altered, or is outside the run.
        """
        if not name:
            return {}
        path = self.folder / name
        if Path(name).name != name:
            raise CheckpointError(f"'{self.folder}' names a file outside the run: '{name}'")
        fix = "copy the run again, or train again"
        data = HashedFile(self.folder, name, sha256, CheckpointError, fix).read()
        try:
            return load_tensors(data)
        except SafetensorError as error:
            raise CheckpointError(f"'{path}' is not a safetensors file: {error}") from error

    def _with_optimiser(self, record: Checkpoint, state: Tensors) -> Checkpoint:
        name, sha256 = ("", "")
        if state:
            name, sha256 = self.write(f"epoch-{record.epoch:05d}-{{}}.optimiser.safetensors", state)
        return msgspec.structs.replace(record, optimiser=name, optimiser_sha256=sha256, restart=None)

    def _replace_last(self, record: Checkpoint) -> None:
        write_atomic(self.folder / "last.json", encode_record(record))
        self.clean()


def read_run_record(
    path: Path, kind: type[R], made_by: str, supported: int | None = None, *, fix: str = "train again"
) -> R:
    """Read a JSON record of a run.

    Args:
        path: The record's path.
        kind: The record's type.
        made_by: The command that writes it, for the message.
        supported: The highest schema that can be read; None for records without a schema.
        fix: What the user can do about a damaged record.

    Raises:
        CheckpointError: The record is missing or cannot be read.
    """
    require_file(path.parent, path.name, error=CheckpointError, fix=f"make it: {made_by}")
    return read_record(path, kind, error=CheckpointError, fix=fix, supported=supported)
