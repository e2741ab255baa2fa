"""A training run on disk: what was decided at its start, and its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
import torch

from kd_export.graph import PairSpec
from kd_train.recipes import Recipe
from kd_train.training.checkpoints import TEACHER, Checkpoint, Checkpoints, EpochRecord, Restart, Tensors, read
from kdx.bundle.manifest import Provenance
from kdx.errors import CheckpointError, DataError, OptionError
from kdx.folders.data_folder import FolderOptions
from kdx.imaging.image_identity import Identity, KnownImages, Likeness, identify
from kdx.imaging.images import ChannelOrder, InputSpec
from kdx.runtime.machine import package_versions
from kdx.storage.files import new_folder, sha256_file, write_atomic
from kdx.storage.json_records import RUN_INDEX, encode_record, now

SCHEMA = 3
# The packages that decide what training and export compute.
TRAINING_PACKAGES = ("kdx", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided at the start of a run.

    Attributes:
        schema: Version of this layout.
        method: The method's name.
        weights: Where the teacher's weights came from, in words.
        pair_spec: The pair's declaration.
        recipe: The hyper-parameters.
        input: What the detector accepts, or the tiles that were cut from larger images.
        tile: Side of those tiles; None: whole images.
        frame: Height and width of those larger images; None for none, or for several sizes.
        mean: The teacher's input mean.
        std: Likewise.
        seed: Of everything random.
        data: The data folder as it was given.
        dataset: Which published data set it is, or None.
        category: Which of its categories, or None.
        subfolders: Whether images in subfolders belong to the folder around them.
        good_folders: Further names of folders of good images.
        odd_images: What was done with few images unlike all others.
        train_images: Content hash of the images trained on, by file name; by path in the data folder where names recur.
        validation_images: Likewise, held out.
        trained_on: Hashes of the images trained on by which copies of them are known again; None in earlier runs.
        data_sha256: One hash over the training images.
        golden: Names of the images kept in ``golden/``.
        teacher: The file of the teacher's tensors; empty until it is written, and in runs up to schema 2, each of whose
            checkpoints holds it.
        teacher_sha256: Its hash.
        versions: Versions of the packages that trained.
        created: UTC time, ISO 8601.
    """

    schema: int
    method: str
    weights: str
    pair_spec: PairSpec
    recipe: Recipe
    input: InputSpec
    tile: int | None = None
    frame: tuple[int, int] | None = None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    seed: int
    data: str
    dataset: str | None = None
    category: str | None = None
    subfolders: bool = False
    good_folders: tuple[str, ...] = ()
    odd_images: Literal["stop", "skip", "keep"] = "stop"
    train_images: dict[str, str]
    validation_images: dict[str, str]
    trained_on: list[Identity] | None = None
    data_sha256: str
    golden: list[str]
    teacher: str = ""
    teacher_sha256: str = ""
    versions: dict[str, str]
    created: str

    def known_images(self) -> KnownImages:
        """Return the images trained on, by which others are known again."""
        return KnownImages(self.trained_on or [Identity(file=sha256) for sha256 in self.train_images.values()])

    @property
    def folder_options(self) -> FolderOptions:
        """What the user said about the data folder."""
        return FolderOptions(self.subfolders, self.good_folders)

    @property
    def backbone(self) -> str:
        """The teacher's networks in words."""
        return " and ".join(dict.fromkeys(self.recipe.backbones))


class Run:
    """A run folder.

    Args:
        path: The folder; it holds ``run.json``.

    Raises:
        CheckpointError: It does not, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path)
        if not path.is_dir():
            raise CheckpointError(f"there is no run folder '{path}'", fix="make one with kdx train")
        self.config = read(path / RUN_INDEX, RunConfig, "kdx train", SCHEMA)

    @staticmethod
    def create(path: Path, config: RunConfig, golden: Mapping[str, bytes], *, force: bool) -> Run:
        """Begin a run: golden images and ``run.json`` appear together; ``force`` replaces an earlier run."""
        with new_folder(path, force=force) as folder:
            (folder / "golden").mkdir()
            for name, data in golden.items():
                (folder / "golden" / name).write_bytes(data)
            (folder / RUN_INDEX).write_bytes(encode_record(config))
        return Run(path)

    def checkpoint(self, which: str) -> Checkpoint:
        """Return the ``last`` or ``best`` checkpoint's record."""
        return self.checkpoints.record(which)

    def tensors(self, checkpoint: Checkpoint | Restart) -> Tensors:
        """Read the pair's tensors at a checkpoint, the teacher's included, and check their hashes.

        At a restart before the first epoch they are the teacher's alone, as far as it was written.
        """
        teacher = self.checkpoints.read(self.config.teacher, self.config.teacher_sha256)
        return {**teacher, **self.checkpoints.read(checkpoint.file, checkpoint.sha256)}

    def keep_teacher(self, tensors: Tensors) -> None:
        """Write the teacher once, and name it in ``run.json``: it never changes."""
        if self.config.teacher:
            return
        name, sha256 = self.checkpoints.write(TEACHER, tensors)
        self.config = msgspec.structs.replace(self.config, schema=SCHEMA, teacher=name, teacher_sha256=sha256)
        write_atomic(self.path / RUN_INDEX, encode_record(self.config))

    def save(self, students: Tensors, optimiser: Tensors | None, history: list[EpochRecord], *, best: bool) -> None:
        """Write the checkpoint of an epoch, see :meth:`kd_train.training.checkpoints.Checkpoints.save`."""
        record = Checkpoint(
            file="",
            sha256="",
            epoch=history[-1].epoch,
            history=history,
            spec=self.config.pair_spec,
            recipe=self.config.recipe,
            data_sha256=self.config.data_sha256,
            versions=self.config.versions,
        )
        self.checkpoints.save(record, students, optimiser, self.config.teacher_sha256, best=best)

    def input_for(self, camera: tuple[int, int] | None, channel_order: ChannelOrder = "rgb") -> InputSpec:
        """Return the input for a camera's channel order and its height and width, or the run's own size for None."""
        spec = msgspec.structs.replace(self.config.input, channel_order=channel_order)
        if camera is None:
            return spec
        return msgspec.structs.replace(spec, height=camera[0], width=camera[1], fixed_size=True)

    def provenance(self, checkpoint: Checkpoint) -> Provenance:
        """Say in a bundle where a checkpoint comes from."""
        return Provenance(
            created=now(),
            checkpoint_sha256=checkpoint.sha256,
            epoch=checkpoint.epoch,
            backbone=self.config.backbone,
            weights=self.config.weights,
            data_sha256=self.config.data_sha256,
            trained_with=self.config.versions,
            exported_with=package_versions(TRAINING_PACKAGES),
        )

    def golden_files(self) -> list[Path]:
        """Return the golden images' paths.

        Raises:
            CheckpointError: ``run.json`` names a file outside the run.
        """
        outside = [name for name in self.config.golden if Path(name).name != name]
        if outside:
            raise CheckpointError(f"'{self.path}' names a file outside the run: '{outside[0]}'")
        return [self.path / "golden" / name for name in self.config.golden]

    def training_files(self, data: Path | None = None, most: int = 64) -> list[Path]:
        """Return some of the images trained on, spread over all of them and known by their content.

        Args:
            data: Where the data set is now; None for where it was at training.
            most: How many.

        Raises:
            DataError: The data set is not there, or holds none of them.
        """
        from kd_train.datasets import open_data

        folder = open_data(data or Path(self.config.data), self.config.category, self.config.folder_options)
        trained = self.config.known_images()
        good = sorted(folder.good)
        step = max(1, len(good) // (2 * most))
        # Strides first, then what lies between, until there are enough.
        ordered = [path for start in range(step) for path in good[start::step]]
        found: list[Path] = []
        for path in ordered:
            if len(found) == most:
                break
            if trained.likeness(identify(path)) is Likeness.SAME:
                found.append(path)
        if not found:
            raise DataError(
                f"'{data or self.config.data}' holds none of the images trained on",
                fix="name the training data with `calibration_data`",
            )
        return found

    def held_out_files(self, data: Path | None = None) -> list[Path]:
        """Return the good images that were held out of training, known by their content.

        Args:
            data: Where the data set is now; None for where it was at training.

        Raises:
            DataError: The data set is not there, or holds none of them; or training held none out.
        """
        from kd_train.datasets import open_data

        wanted = set(self.config.validation_images.values())
        if not wanted:
            raise DataError(
                "training held out no good images",
                fix="train with a share held out: kdx train DATA --validation-fraction 0.2",
            )
        where = data or Path(self.config.data)
        folder = open_data(where, self.config.category, self.config.folder_options)
        found = {sha256_file(path): path for path in sorted(folder.good)}
        held_out = [path for digest, path in found.items() if digest in wanted]
        if not held_out:
            raise DataError(
                f"'{where}' holds none of the {len(wanted)} good images that were held out",
                fix="name the training data with `calibration_data`",
            )
        return held_out


def check_device(name: str) -> torch.device:
    """Return a device that exists.

    Raises:
        OptionError: Unknown, or not present on this machine.
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
