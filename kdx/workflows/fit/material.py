"""The images of ``kdx fit``, and how many good ones it holds out for the threshold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd_train.data.annotations import Annotations
from kd_train.data.image_records import (
    BadImages,
    ImageRecord,
    choose_input,
    parts_of_copies,
    scan_images,
    split_images,
)
from kd_train.data.odd_images import handle_odd_images
from kd_train.data.parts import parts_of
from kd_train.datasets import open_data
from kd_train.recipes import Recipe
from kdx.calibration.rates import images_to_promise, lowest_rate
from kdx.errors import DataError, ImageError, in_one_line
from kdx.folders.bad_images import skipped_remark
from kdx.folders.copies import between, identified, repeated, within
from kdx.folders.data_folder import ImageFolder, TestImage, require_good
from kdx.imaging.image_identity import identify
from kdx.imaging.images import InputSpec, decode_image, read_header, read_image
from kdx.imaging.masks import read_mask
from kdx.progress import Progress
from kdx.remarks import Remark
from kdx.storage.files import hash_of_hashes
from kdx.workflows.fit.request import FitRequest

# One share for all candidates, whatever their recipes hold out: they must be compared on the same
# images.
_HELD_OUT = 0.2
_MOST_HELD_OUT = 0.5
# Images on which latency is measured and an untrained INT8 graph finds its scales.
_SAMPLES = 8


@dataclass(frozen=True)
class Material:
    """The images.

    Attributes:
        folder: The data folder.
        good: Its good images that can be read, with the hash of each.
        held_out_sha256: Hash over those of them that are held out.
        remarks: What was left out or could not be used.
        parts: The part that each good image shows; one without an entry is a part of its own.
    """

    folder: ImageFolder
    good: tuple[ImageRecord, ...]
    held_out_sha256: str = ""
    remarks: tuple[Remark, ...] = ()
    parts: Mapping[Path, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash over the good images."""
        return hash_of_hashes(record.sha256 for record in self.good)

    def input_of(self, recipe: Recipe, request: FitRequest) -> InputSpec:
        """Return what a detector of these images accepts, as training decides it."""
        options = request.training
        size = recipe.crop_from or recipe.image_size
        return choose_input(
            self.good,
            size,
            channels=options.channels,
            sixteen_bit_range=options.sixteen_bit_range,
            crop=options.crop,
        )

    def samples(self, spec: InputSpec) -> NDArray[np.uint8]:
        """Read a few good images ``(K, H, W, C)``, spread over all."""
        step = max(1, len(self.good) // _SAMPLES)
        found = []
        for record in self.good[::step]:
            try:
                found.append(read_image(record.path, spec))
            except ImageError:
                continue  # training counts it and says so
            if len(found) == _SAMPLES:
                break
        if not found:
            raise DataError("none of the good images can be read", received=str(self.good[0].path))
        return np.stack(found)

    def held_out(self, hashes: Sequence[str]) -> list[Path]:
        """Return the good images that have one of these hashes, each once: what a run held out."""
        by_hash = {record.sha256: record.path for record in self.good}
        return [by_hash[sha256] for sha256 in dict.fromkeys(hashes) if sha256 in by_hash]


def read_material(request: FitRequest, progress: Progress) -> tuple[Material, FitRequest]:
    """Read the data folder, and decide the share of good images to hold out where the user did not.

    Raises:
        DataError: There are no good images, or too few for the false-reject rate.
        ImageError: A mask cannot be used.
        TrainingError: More images than allowed cannot be used.
    """
    options = request.training
    folder = open_data(request.data, options.category, options.folder_options, progress=progress)
    odd = "keep" if folder.dataset and options.odd_images == "stop" else options.odd_images
    bad = BadImages(options.max_bad_images)
    scanned = scan_images(require_good(folder), bad, progress)
    for path, reason in _unreadable(record.path for record in scanned if not record.pixels):
        bad.add(path, reason)
    records, odd_remarks = handle_odd_images(scanned, odd, channels=options.channels)
    if not records:
        raise DataError(f"'{request.data}' holds no good image that can be read", fix="repair or add images")
    different = len({record.identity.key for record in records})
    good = [(record.path, record.identity) for record in records]
    share = options.validation_fraction
    if share is None:
        share = _share(different, request.false_reject_rate)
    usable = [record.path for record in records]
    parts = parts_of(folder, usable, group_by=options.group_by, table=options.parts)
    _, held_out = split_images(
        records,
        validation_fraction=share,
        train_fraction=options.train_fraction,
        seed=options.seed,
        parts=parts.by_image,
    )
    if len(held_out) < images_to_promise(request.false_reject_rate):
        raise _too_few(different, len(held_out), request.false_reject_rate)
    remarks = [*folder.remarks, *odd_remarks, *parts.remarks, *within(good), *between(folder, good, progress)]
    of_test = dict(_unreadable(image.path for image in folder.test))
    remarks += skipped_remark([*bad.reasons.values(), *of_test.values()])
    decided = replace(request, training=replace(options, validation_fraction=share))
    if any(image.is_defective for image in folder.test):
        _require_usable(folder.test, of_test, options.max_bad_images)
        remarks += repeated(folder.test, identified((image.path for image in folder.test), progress))
        remarks += Annotations(unused=[str(path) for path in folder.unused_masks]).remarks()
    held_out_sha256 = hash_of_hashes(record.sha256 for record in held_out)
    by_image = parts_of_copies(records, parts.by_image)
    return Material(folder, tuple(records), held_out_sha256, tuple(remarks), by_image), decided


def _unreadable(paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the images that cannot be read, with the reason; nothing of others."""
    for path in paths:
        try:
            if not identify(path).pixels:
                decode_image(path, channels=3)
        except ImageError as error:
            yield path, in_one_line(error)


def _require_usable(test: Sequence[TestImage], unreadable: Mapping[Path, str], max_bad_images: int) -> None:
    """Check what accuracy will be measured on, so that an error comes before hours of training."""
    bad = BadImages(max_bad_images)
    for path, reason in unreadable.items():
        bad.add(path, reason)
    for image in test:
        if image.mask is not None:
            read_mask(image.mask, None if image.path in unreadable else read_header(image.path)[:2])


def _share(images: int, false_reject_rate: float) -> float:
    """Return the usual share, or more where the false-reject rate needs more images, up to half."""
    needed = images_to_promise(false_reject_rate)
    if needed > _MOST_HELD_OUT * images:
        raise _too_few(images, int(_MOST_HELD_OUT * images), false_reject_rate)
    return max(_HELD_OUT, math.ceil(1e4 * needed / images) / 1e4)


def _too_few(images: int, held_out: int, false_reject_rate: float) -> DataError:
    needed = images_to_promise(false_reject_rate)
    rate = f"ask for `false_reject_rate={lowest_rate(held_out):g}`" if held_out else ""
    return DataError(
        f"too few good images for a false-reject rate of {false_reject_rate:g}",
        expected=f"at least {needed} to hold out for the threshold, and as many to train on",
        received=f"{images} different good images, of which {held_out} can be held out",
        fix=", or ".join(filter(None, (f"add good images until there are {2 * needed}", rate))),
    )
