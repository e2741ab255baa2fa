"""The configuration of a run, which is fixed at its start: the content of ``run.json``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from kd_export.graph import PairSpec
from kd_export.graph.int8 import Int8Plan
from kd_export.graph.preprocess import Preprocess
from kd_train.recipes import Recipe
from kd_train.training.distilled_teacher import DistilledTeacher
from kdx import __version__
from kdx.errors import DataError
from kdx.folders.data_folder import FolderOptions, ImageFolder
from kdx.imaging.image_identity import Identity, KnownImages
from kdx.imaging.images import InputSpec
from kdx.progress import SILENT, Progress
from kdx.remarks import Remark, remark
from kdx.runtime.machine import package_versions
from kdx.text import number_of

SCHEMA = 3
# The schema of runs with border weights or a window of the frame, which earlier versions would
# leave out; of runs with INT8 networks, which they would take for FP32; and of runs that were
# extended, started from another run's students, or learn in BF16, which they would resume in
# another way.
NEWEST_SCHEMA = 4
# The packages that decide what training and export compute.
TRAINING_PACKAGES = ("kdx", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


class Quantized(msgspec.Struct, frozen=True, kw_only=True):
    """How the networks of a run were quantised before its students learnt.

    Attributes:
        checkpoint_sha256: The hash of the checkpoint from which they came, of the run around it.
        teacher_sha256: The hash of that run's teacher's file; empty in runs up to schema 2.
        epoch: The epoch of that checkpoint.
        headroom: At what multiple of the limits of the plan activations are clipped.
        images: The number of good images that set the scales.
        defects: The number of synthetic defects on these that set the scales too.
        plan: The steps of all activations.
    """

    checkpoint_sha256: str
    teacher_sha256: str
    epoch: int
    headroom: float
    images: int
    defects: int
    plan: Int8Plan

    def describe(self) -> str:
        """Say how many operations are INT8, and from what their scales come."""
        times = "" if self.headroom == 1 else f"{self.headroom:g} times "
        return (
            f"{number_of(len(self.plan.nodes), '[operation|operations]')} quantised; scales from "
            f"{number_of(self.images, 'good [image|images]')} and {number_of(self.defects, 'drawn [defect|defects]')}, "
            f"clipped at {times}their limits"
        )


class Cycle(msgspec.Struct, frozen=True, kw_only=True):
    """A cycle of a run that was extended: the learning rate's schedule, once from begin to end.

    Attributes:
        after: The number of epochs that were complete before it.
        epochs: The number of its epochs.
        checkpoint_sha256: The hash of the last checkpoint before it, from whose weights it began,
            with an optimiser without state; empty for the first cycle.
        versions: The versions of the packages with which it began.
        created: The UTC time at which it began, ISO 8601.
    """

    after: int
    epochs: int
    checkpoint_sha256: str
    versions: dict[str, str]
    created: str


class InitialStudents(msgspec.Struct, frozen=True, kw_only=True):
    """The students of another run with which a run started.

    Attributes:
        run: The folder of that run, absolute; as the user gave it in earlier runs.
        checkpoint_sha256: The hash of its checkpoint.
        teacher_sha256: The hash of its teacher's file; empty in runs up to schema 2.
        epoch: The epoch of the checkpoint.
        data_sha256: One hash of all images that it was trained on.
    """

    run: str
    checkpoint_sha256: str
    teacher_sha256: str
    epoch: int
    data_sha256: str


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a run, which is fixed at its start.

    Attributes:
        schema: The version of this layout.
        method: The method's name.
        weights: A text that says where the teacher's weights came from.
        pair_spec: The declaration of the pair's maps.
        recipe: The hyper-parameters.
        input: The input that the detector accepts, or the tiles that were cut from larger images.
        tile: The side of those tiles; None for whole images.
        frame: The height and width of those larger images; None without tiles or for several sizes.
        mean: The mean of each RGB channel by which the teacher's input is normalised.
        std: The standard deviation of each RGB channel by which the teacher's input is normalised.
        seed: The seed of all randomness.
        data: The data folder, absolute; as the user gave it in earlier runs; empty for a teacher of
            several products.
        dataset: The key of the published data set, or None.
        category: The data set's category, or None.
        subfolders: Whether images in subfolders belong to the folder around them.
        good_folders: Further names of folders of good images.
        odd_images: The treatment of odd images, see :mod:`kd_train.data.odd_images`.
        train_images: The content hash of each training image, by file name, or by path in the data
            folder if several images have the same name.
        validation_images: The content hash of each held-out image, by the same names.
        trained_on: The hashes by which copies of the training images are recognised, those of
            initial students included; None in earlier runs.
        left_out: The hashes of odd good images that the training left out, and that a calibration
            leaves out too; unset for none.
        data_sha256: One hash of all training images.
        golden: The names of the images in ``golden/``.
        teacher: The file of the teacher's tensors. It is empty until the file is written, and in
            runs up to schema 2, whose checkpoints contain the teacher.
        teacher_sha256: The hash of ``teacher``.
        source_sha256: One hash of the tensors of the networks from which a compact teacher learns,
            or of the teacher of another run; empty for other teachers.
        extra_sha256: One hash of the further images from which it learns; empty for none.
        teacher_learnt: The hashes by which copies of the images are recognised from which a compact
            teacher learns; None where they are those of ``trained_on``, and for other teachers.
        distilled: How the compact teacher was made; None until it is, and for other teachers.
        quantized: How the networks were quantised; unset for FP32 networks.
        border_weights: The border weights of each map, see :mod:`kd_export.graph.border`; an empty
            tuple for a map without them. They are unset until the training is finished, and without
            the recipe's ``border_weights``.
        precision: ``int8`` where the training was asked for an INT8 stage; unset otherwise.
        cycles: The cycles of a run that was extended; unset for any other. The epochs of the recipe
            are those of all cycles.
        init: The students of another run with which it started; unset for random ones.
        command: The command that began it; ``train`` once the folder of a teacher has students.
        options: The options that it was begun with and that decide its result, by name; defaults
            are left out, and paths are absolute. They are unset in earlier runs.
        versions: The versions of the packages with which the pair was trained.
        created: The UTC time, ISO 8601.
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
    left_out: list[Identity] | UnsetType = UNSET
    data_sha256: str
    golden: list[str]
    teacher: str = ""
    teacher_sha256: str = ""
    source_sha256: str = ""
    extra_sha256: str = ""
    teacher_learnt: list[Identity] | None = None
    distilled: DistilledTeacher | None = None
    quantized: Quantized | UnsetType = UNSET
    border_weights: tuple[tuple[float, ...], ...] | UnsetType = UNSET
    precision: Literal["int8"] | UnsetType = UNSET
    cycles: list[Cycle] | UnsetType = UNSET
    init: InitialStudents | UnsetType = UNSET
    command: Literal["train", "distil"] = "train"
    options: dict[str, Any] | UnsetType = UNSET
    versions: dict[str, str]
    created: str

    @property
    def cycle_start(self) -> int:
        """The number of epochs that were complete before the current cycle."""
        return 0 if self.cycles is UNSET else self.cycles[-1].after

    def known_images(self) -> KnownImages:
        """Return the hashes of the training images, by which copies are recognised."""
        return KnownImages(self.trained_on or [Identity(file=sha256) for sha256 in self.train_images.values()])

    def open_data(self, data: Path | None, parameter: str, progress: Progress = SILENT) -> ImageFolder:
        """Open the folder of the training data.

        Args:
            data: Where it is now; None for its place at training.
            parameter: The parameter that names another place, for the message.
            progress: The progress display.

        Raises:
            DataError: The folder does not exist, or cannot be used.
        """
        from kd_train.datasets import open_data

        where = data or Path(self.data)
        try:
            return open_data(where, self.category, self.folder_options, progress=progress)
        except DataError as error:
            if data is not None or where.exists():
                raise
            raise DataError(
                f"the training data are no longer at '{where}'",
                fix=f"name the folder where they are now: `{parameter}`",
            ) from error

    @property
    def folder_options(self) -> FolderOptions:
        """The user's description of the data folder."""
        return FolderOptions(self.subfolders, self.good_folders)

    @property
    def backbone(self) -> str:
        """The names of the teacher's networks, as a text."""
        return " and ".join(dict.fromkeys(self.recipe.backbones))


@functools.cache
def current_versions() -> Mapping[str, str]:
    """Return the versions of the packages that decide what training and export compute."""
    return {"kdx": __version__, **package_versions(TRAINING_PACKAGES)}


def other_versions(config: RunConfig) -> list[Remark]:
    """Return a remark where a run is resumed with other versions than those with which it began."""
    began = config.versions if config.cycles is UNSET else config.cycles[-1].versions
    now = current_versions()
    names = [f"{name} {began.get(name, 'none')}, now {now[name]}" for name in now if began.get(name) != now[name]]
    text = (
        "[package has|packages have] changed since the run began, so its result may differ from that of a training "
        "that was not interrupted"
    )
    return remark("other_versions", text, names)


def preprocess_of(config: RunConfig) -> Preprocess:
    """Return what makes the networks' input of a run's uint8 images."""
    recipe = config.recipe
    return Preprocess(
        config.input, recipe.size, config.mean, config.std, scale_is_folded=False, resize_to=recipe.resize_to
    )
