"""Hashes of everything that decides a product or a shared teacher: what they have is kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from kdx.errors import CheckpointError
from kdx.folders.data_folder import FolderOptions, ImageFolder
from kdx.storage.files import hash_of_hashes, sha256_bytes, sha256_if_readable
from kdx.workflows.many.product_records import ProductOrder, ProductResult, TeacherOrder


def product_fingerprint(order: ProductOrder, folder: ImageFolder) -> str:
    """Return a hash of everything that decides a product: options, and files with their roles.

    An image that is moved from the good ones to a type of defects, or between types, changes it.
    """
    named = [("good ", path) for path in folder.good]
    named += [(f"test {image.defect_type} ", image.path) for image in folder.test]
    named += [(f"mask {image.defect_type} ", image.mask) for image in folder.test if image.mask is not None]
    return _fingerprint_of(order, named)


def is_of_earlier_kdx(order: ProductOrder, folder: ImageFolder, kept: ProductResult) -> bool:
    """Whether a finished product has the same options and files, by a fingerprint without roles.

    Earlier releases recorded such a fingerprint. The run says which images were good ones then, and
    each of them must still be one.
    """
    from kd_train.training.run_folder import Run

    named = [("", path) for path in folder.good]
    named += [("", path) for image in folder.test for path in (image.path, image.mask) if path is not None]
    if kept.state != "trained" or kept.fingerprint != _fingerprint_of(order, named):
        return False
    good = {sha256_if_readable(path) for path in folder.good}
    with contextlib.suppress(CheckpointError):
        config = Run(order.run).config
        return good.issuperset((*config.train_images.values(), *config.validation_images.values()))
    return False


def _fingerprint_of(order: ProductOrder, images: Sequence[tuple[str, Path]]) -> str:
    """Return a hash of a product's options, of images, each with its role, and of other files."""
    product = order.product
    others = [("", path) for path in product.files] + [("teacher ", path) for path in product.teacher_files]
    hashes = _hashes([*images, *others])
    hashes += [f"init {_initial_students(order)}"] if product.init else []
    return sha256_bytes(msgspec.json.encode([product.decisive, hash_of_hashes(hashes)]))


def _initial_students(order: ProductOrder) -> str:
    """Return the hash of the students with which a product's training starts.

    Where their run is gone, it is the hash of those with which the product's own run started: a
    finished product does not need them again.
    """
    from kd_train.training.run_folder import Run

    assert order.product.init is not None
    with contextlib.suppress(CheckpointError):
        run = Run(Path(order.product.init))
        return run.checkpoint(run.config.recipe.checkpoint).sha256
    with contextlib.suppress(CheckpointError):
        begun = Run(order.run).config.init
        return "" if begun is UNSET else begun.checkpoint_sha256
    return ""


def teacher_fingerprint(order: TeacherOrder) -> str:
    """Return a hash of everything that decides a teacher: settings, options, and files as above."""
    from kd_train.datasets import open_data

    parts: list[Any] = [order.settings]
    for name, product in sorted(order.products.items()):
        options = FolderOptions(product.subfolders, product.good_folders)
        folder = open_data(Path(product.data), product.category, options)
        named = [("good ", path) for path in folder.good]
        named += [("", path) for path in product.files]
        named += [("teacher ", path) for path in product.teacher_files]
        parts.append([name, product.decisive, hash_of_hashes(_hashes(named))])
    return sha256_bytes(msgspec.json.encode(parts))


def _hashes(named: Sequence[tuple[str, Path]]) -> list[str]:
    """Return role, name and hash of each file that can be read; names need not be UTF-8."""
    found = [f"{role}{path.name} {sha256}" for role, path in named if (sha256 := sha256_if_readable(path))]
    return [os.fsencode(each).decode("utf-8", "backslashreplace") for each in found]
