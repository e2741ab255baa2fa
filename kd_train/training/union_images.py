"""The union of several products' good images, from which their shared teacher learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec

from kd_train.data.image_records import BadImages, ImageRecord
from kd_train.data.image_set import ImageSet
from kd_train.training.from_options import recipe_of
from kd_train.training.options import TrainOptions
from kd_train.training.training_images import TrainingImages, hashes_by_file, read_training_images
from kdx.errors import DataError
from kdx.folders.image_folder import ImageFolder
from kdx.imaging.image_identity import KnownImages, Likeness
from kdx.progress import Progress
from kdx.remarks import remark

# A product that has fewer images than the largest one divided by this is repeated up to there.
_LARGEST_RATIO = 4


@dataclass(frozen=True)
class Member:
    """A product whose images a shared teacher learns from.

    Attributes:
        data: The data folder.
        options: The options of the product's own training, which divide its images.
    """

    data: Path
    options: TrainOptions


@dataclass(frozen=True)
class MemberFiles:
    """The files of a product that can be used, without their pixels.

    Attributes:
        root: The data folder.
        records: The files.
    """

    root: Path
    records: list[ImageRecord]


@dataclass(frozen=True)
class UnionImages(TrainingImages):
    """The images of several products.

    Attributes:
        members: The files of each product, by its name.
        products: The files of each product from which the teacher learns, by its name.
    """

    members: Mapping[str, MemberFiles]
    products: Mapping[str, list[ImageRecord]]

    @cached_property
    def train_set(self) -> ImageSet:
        """The images to train on: those of small products several times, see :func:`repeats`."""
        times = repeats({name: len(records) for name, records in self.products.items()})
        return self.images.subset(
            [record for name, records in self.products.items() for _ in range(times[name]) for record in records]
        )

    def hashes(self, records: Sequence[ImageRecord]) -> dict[str, str]:
        """Return hashes by the product's name and the name of the file in it."""
        paths = {record.path for record in records}
        found: dict[str, str] = {}
        for name, member in self.members.items():
            own = [record for record in member.records if record.path in paths]
            paths.difference_update(record.path for record in own)
            found.update((f"{name}/{file}", sha256) for file, sha256 in hashes_by_file(own, member.root).items())
        return found


def repeats(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how often each product's images are taken in an epoch.

    Every image is taken once. If a product has less than a quarter of the images of the largest
    one, its images are taken so often that they are at least a quarter of those: otherwise the
    teacher would learn little of it, and more repetitions would only cost time.

    Args:
        counts: The number of images of each product.
    """
    most = max(counts.values())
    return {name: max(1, -(-most // (_LARGEST_RATIO * max(1, count)))) for name, count in counts.items()}


def read_union(members: Mapping[str, Member], progress: Progress) -> UnionImages:
    """Read the good images of several products.

    What a product holds out is held out from the union, also if another product trains on a copy.

    Raises:
        DataError: A folder cannot be used, or the images of two products have different sizes or
            colours.
        TrainingError: More images than allowed cannot be used.
    """
    read = _read(members, progress)
    _require_one_input(read)
    held_out = _different(record for images in read.values() for record in images.held_out)
    reserved = KnownImages([record.identity for record in held_out])
    known: set[str] = set()
    products: dict[str, list[ImageRecord]] = {}
    copies: list[Path] = []
    for name, images in read.items():
        free = [record for record in images.trained if reserved.likeness(record.identity) is not Likeness.SAME]
        copies += [record.path for record in images.trained if record not in free]
        products[name] = [record for record in free if record.identity.key not in known]
        known.update(record.identity.key for record in free)
    remarks = remark(
        "held_out_of_other_product",
        "good [image is|images are] held out for another product, so that the shared teacher does not learn from "
        "[it|them]",
        copies,
    )
    bad = BadImages(sum(member.options.max_bad_images for member in members.values()))
    for images in read.values():
        bad.reasons.update(images.bad.reasons)
    first = next(iter(read.values()))
    good = tuple(path for images in read.values() for path in images.folder.good)
    return UnionImages(
        folder=ImageFolder(first.folder.root, "plain", good, ()),
        spec=first.spec,
        images=ImageSet.joined([images.images for images in read.values()]),
        trained=[record for records in products.values() for record in records],
        held_out=held_out,
        parts={path: f"{name}/{part}" for name, images in read.items() for path, part in images.parts.items()},
        bad=bad,
        remarks=remarks,
        members={name: MemberFiles(images.folder.root, images.images.records) for name, images in read.items()},
        products=products,
    )


def _read(members: Mapping[str, Member], progress: Progress) -> dict[str, TrainingImages]:
    """Read the images of each product; the pixels of all are kept if they fit together."""
    memory_mib = min(member.options.memory_mib for member in members.values())
    read: dict[str, TrainingImages] = {}
    for name, member in members.items():
        options = replace(member.options, memory_mib=memory_mib)
        used_bytes = sum(images.images.pixel_bytes for images in read.values())
        read[name] = read_training_images(member.data, options, recipe_of(options), progress, used_bytes=used_bytes)
    return read


def _require_one_input(read: Mapping[str, TrainingImages]) -> None:
    (first, one), *others = read.items()
    for name, other in others:
        if other.spec == one.spec:
            continue
        ours, theirs = (msgspec.structs.asdict(images.spec) for images in (one, other))
        differing = [key for key in ours if ours[key] != theirs[key]]
        raise DataError(
            f"the images of '{first}' and '{name}' make different inputs, so the products cannot share a teacher",
            expected=", ".join(f"{key} {ours[key]}" for key in differing),
            received=", ".join(f"{key} {theirs[key]}" for key in differing),
            fix="let only products of one camera share a teacher",
        )


def _different(records: Iterable[ImageRecord]) -> list[ImageRecord]:
    """Return the records without copies of earlier ones."""
    first: dict[str, ImageRecord] = {}
    for record in records:
        first.setdefault(record.identity.key, record)
    return list(first.values())
