"""The images of a training: read, checked, and divided into trained and held-out ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kd_train.data.image_records import BadImages, ImageRecord, choose_input, parts_of_copies, scan_images, split_images
from kd_train.data.image_set import ImageSet
from kd_train.data.odd_images import handle_odd_images
from kd_train.data.parts import parts_of
from kd_train.data.reduction import reduction_remark
from kd_train.datasets import open_data
from kd_train.recipes import Recipe
from kd_train.training.options import TrainOptions
from kdx.folders.copies import across, between, within
from kdx.folders.data_folder import require_good
from kdx.folders.image_folder import ImageFolder
from kdx.imaging.image_identity import Identity, KnownImages, Likeness
from kdx.imaging.images import InputSpec
from kdx.progress import Progress
from kdx.remarks import Remark, remark


@dataclass(frozen=True)
class TrainingImages:
    """The good images of a folder, as a training uses them.

    Attributes:
        folder: The data folder.
        spec: The input that the detector accepts, or the tiles that are cut from larger images.
        images: All images that can be used.
        trained: The files to train on.
        held_out: The files that are held out.
        parts: The part that each image shows; an image without an entry is a part of its own.
        bad: The record of damaged files.
        remarks: The remarks on images that were left out or are unusual.
        left_out: The odd images that were left out.
    """

    folder: ImageFolder
    spec: InputSpec
    images: ImageSet
    trained: list[ImageRecord]
    held_out: list[ImageRecord]
    parts: Mapping[Path, str]
    bad: BadImages
    remarks: list[Remark]
    left_out: Sequence[ImageRecord] = field(default=(), kw_only=True)

    @cached_property
    def train_set(self) -> ImageSet:
        """The images to train on."""
        return self.images.subset(self.trained)

    @cached_property
    def held_out_set(self) -> ImageSet:
        """The held-out images."""
        return self.images.subset(self.held_out)

    @property
    def frame(self) -> tuple[int, int] | None:
        """The files' height and width if all have the same, otherwise None."""
        sizes = {(record.height, record.width) for record in self.images.records}
        return next(iter(sizes)) if len(sizes) == 1 else None

    def hashes(self, records: Sequence[ImageRecord]) -> dict[str, str]:
        """Return hashes as :func:`hashes_by_file`."""
        return hashes_by_file(records, self.folder.root)


def hashes_by_file(records: Sequence[ImageRecord], root: Path) -> dict[str, str]:
    """Return hashes by file name, or by path in the folder ``root`` if names recur."""
    names = {record.path.name for record in records}
    if len(names) == len(records):
        return {record.path.name: record.sha256 for record in records}
    return {os.path.relpath(record.path, root).replace(os.sep, "/"): record.sha256 for record in records}


def known_to_teacher(learnt: Sequence[Identity], held_out: Sequence[ImageRecord]) -> list[Remark]:
    """Return a remark on held-out images from which the compact teacher learnt elsewhere.

    Args:
        learnt: The hashes of images that were not held out from the teacher.
        held_out: The held-out images.
    """
    known = KnownImages(learnt)
    same = [record.path for record in held_out if known.likeness(record.identity) is Likeness.SAME]
    return remark(
        "held_out_known_to_teacher",
        "held-out [image was|images were] not held out from the compact teacher, which learnt from [it|them]",
        same,
    )


def read_training_images(
    data: Path,
    options: TrainOptions,
    recipe: Recipe,
    progress: Progress,
    *,
    used_bytes: int = 0,
    learnt: Sequence[Identity] = (),
) -> TrainingImages:
    """Read the good images of a folder, and divide them as the options ask.

    Args:
        data: The folder.
        options: The options of the training.
        recipe: The recipe that follows from them.
        progress: The progress display.
        used_bytes: The part of the options' ``memory_mib`` that other images take.
        learnt: The hashes of images that initial students learnt from.

    Raises:
        DataError: The folder cannot be used.
        OptionError: An image is smaller than a tile.
        TrainingError: More images than allowed cannot be used.
    """
    folder = open_data(data, options.category, options.folder_options, progress=progress)
    bad = BadImages(options.max_bad_images)
    # A published data set is used as it is.
    odd = "keep" if folder.dataset and options.odd_images == "stop" else options.odd_images
    scanned = scan_images(require_good(folder), bad, progress)
    records, odd_remarks = handle_odd_images(scanned, odd, channels=options.channels, tiles=options.tile is not None)
    used = {record.path for record in records}
    left_out = [record for record in scanned if record.path not in used]
    spec = choose_input(
        records,
        recipe.crop_from or recipe.image_size,
        tile=options.tile,
        channels=options.channels,
        sixteen_bit_range=options.sixteen_bit_range,
        crop=options.crop,
    )
    image_set = ImageSet(
        records,
        spec,
        bad,
        memory_mib=options.memory_mib - used_bytes / 2**20,
        workers=options.workers,
        tiles=options.tile is not None,
        progress=progress,
    )
    usable = [record.path for record in image_set.records]
    named = parts_of(folder, usable, group_by=options.group_by, table=options.parts)
    parts = parts_of_copies(image_set.records, named.by_image)
    train_records, held_out = split_images(
        image_set.records,
        validation_fraction=recipe.validation_fraction,
        train_fraction=options.train_fraction,
        seed=options.seed,
        parts=parts,
        learnt=KnownImages(learnt) if learnt else None,
    )
    every = [(record.path, record.identity) for record in image_set.records]
    sides = [[(record.path, record.identity) for record in side] for side in (train_records, held_out)]
    copies = [*within(every), *across(*sides), *between(folder, every, progress)]
    reduced = reduction_remark(image_set.records, spec, recipe.crop_from or recipe.image_size)
    remarks = [*folder.remarks, *odd_remarks, *named.remarks, *copies, *reduced]
    return TrainingImages(folder, spec, image_set, train_records, held_out, parts, bad, remarks, left_out=left_out)
