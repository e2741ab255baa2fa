"""Compact teachers that products of a catalogue share: each learns once, from the union of images.

A product with ``shared_teacher = "NAME"`` is trained like one whose ``teacher_from`` is a run
folder, which is ``teachers/NAME`` in the output folder. A teacher that exists there is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kdx.archive.error_transport import remote_error
from kdx.errors import CheckpointError, OptionError
from kdx.folders.bad_images import skipped_remark
from kdx.imaging.image_size import ImageSize
from kdx.imaging.value_range import NarrowRanges, counted
from kdx.remarks import remark
from kdx.storage.cache import nothing_cached
from kdx.workflows.many.fingerprints import teacher_fingerprint
from kdx.workflows.many.product import begun_before, failed, keep, stale_run
from kdx.workflows.many.product_records import (
    TEACHERS,
    ProductOrder,
    ProductResult,
    TeacherOrder,
    TeacherResult,
    read_kept,
)

if TYPE_CHECKING:
    from kd_train.training.students import TrainResult


def teacher_orders(orders: Sequence[ProductOrder]) -> list[TeacherOrder]:
    """Return an order for each teacher that products share, in the catalogue's order.

    Raises:
        OptionError: A product cannot share a teacher, it shares it with no other one, two products
            disagree, or the teacher that exists was made with other settings.
    """
    groups: dict[str, list[ProductOrder]] = {}
    for order in orders:
        if order.product.shared_teacher is not None:
            groups.setdefault(order.product.shared_teacher, []).append(order)
    return [_teacher_order(name, members) for name, members in groups.items()]


def _teacher_order(name: str, members: Sequence[ProductOrder]) -> TeacherOrder:
    first, *others = members
    settings = _settings(first)
    for other in others:
        _require_same(
            f"[products.{first.name}] and [products.{other.name}] disagree and cannot share the teacher '{name}'",
            {**settings, **_between_products(first)},
            {**_settings(other), **_between_products(other)},
            fix=f"give both the same, or [products.{other.name}] another shared_teacher",
        )
    products = {order.name: order.product for order in members}
    teacher = TeacherOrder(name=name, products=products, settings=settings, out=first.out, threads=first.threads)
    made = made_teacher(teacher)
    if made is not None:
        _require_same(
            f"the teacher '{name}' in '{teacher.run}' was made with other settings",
            made.settings,
            settings,
            fix="give those settings, or another shared_teacher, which trains the products that name it again: "
            + ", ".join(products),
        )
    elif not others:
        raise OptionError(
            f"[products.{first.name}]: no other product shares the teacher '{name}'",
            expected="two or more products with this shared_teacher",
            fix="leave out shared_teacher: a teacher of the product's own learns from the same images",
        )
    return teacher


def _settings(order: ProductOrder) -> dict[str, Any]:
    """Return what decides a teacher beside images, by the catalogue's keys.

    Raises:
        OptionError: The product has no compact teacher that could be shared.
    """
    from kd_train.training.from_options import kept_folder, recipe_of

    product, where = order.product, f"[products.{order.name}]"
    options = product.train_options()
    fix = 'leave out shared_teacher; if it is one of the defaults, give the product shared_teacher = ""'
    if product.init is not None:
        raise OptionError(
            f"{where} has init and shared_teacher, but students only fit the teacher that they learnt from",
            received=f"init {product.init}, shared_teacher {product.shared_teacher}",
            fix="leave out shared_teacher and teacher_from: the teacher of the run of init is taken over; if they are "
            'among the defaults, give the product shared_teacher = ""',
        )
    if (folder := kept_folder(options)) is not None:
        raise OptionError(f"{where} has the teacher of '{folder}' already", received="shared_teacher", fix=fix)
    if product.tile is not None:
        raise OptionError(
            f"{where} cuts frames into tiles, which go through one bundle at a time and share no teacher", fix=fix
        )
    if product.crop is not None:
        raise OptionError(f"{where} has a window of its own, and products with one share no teacher", fix=fix)
    recipe = recipe_of(options)
    if not recipe.teacher_from:
        raise OptionError(
            f"{where}: shared_teacher is a key of compact teachers",
            expected="backbone compact-s, compact-m or compact-l",
            received=", ".join(recipe.backbones),
            fix=fix,
        )
    strides = "/".join(", ".join(map(str, group)) for group in recipe.strides)
    return {
        "backbone": ",".join(recipe.backbones),
        "teacher_from": ",".join(recipe.teacher_from),
        "teacher_epochs": recipe.teacher_epochs,
        "weights": ",".join(Path(part).name for part in product.weights.split(",")),
        "extra_images": [Path(folder).name for folder in product.extra_images],
        "taps": "/".join(",".join(group) for group in recipe.taps) or f"at the strides {strides}",
        "image_size": _as_json(recipe.image_size),
        "crop_from": _as_json(recipe.crop_from),
        "seed": product.seed,
    }


def _as_json(size: ImageSize) -> int | list[int]:
    """Return a size as records have it when they are read again."""
    return size if isinstance(size, int) else list(size)


def _between_products(order: ProductOrder) -> dict[str, Any]:
    """Return what must agree between products and is not recorded, by the catalogue's keys.

    This is what the deployed graph holds before the teacher, and where the teacher's files are: a
    record names files without their folders, because the output folder may move with them.
    """
    product = order.product
    return {
        "input_size": product.input_size,
        "channel_order": product.channel_order,
        "weights": ",".join(_resolved(part) for part in product.weights.split(",")),
        "extra_images": [_resolved(folder) for folder in product.extra_images],
    }


def _resolved(text: str) -> str:
    """Return a path of the catalogue, which is absolute, without links; a name as it is."""
    return str(Path(text).resolve()) if Path(text).is_absolute() else text


def _require_same(message: str, ours: dict[str, Any], theirs: dict[str, Any], fix: str) -> None:
    differing = [key for key in theirs if ours.get(key) != theirs[key]]
    if differing:
        raise OptionError(
            message,
            expected=", ".join(f"{key} {ours.get(key)}" for key in differing),
            received=", ".join(f"{key} {theirs[key]}" for key in differing),
            fix=fix,
        )


def made_teacher(order: TeacherOrder) -> TeacherResult | None:
    """Return the result of a teacher that exists; None if it does not, or is not finished."""
    from kd_train.training.run_folder import Run

    kept = _kept(order)
    if kept is None or kept.state != "trained":
        return None
    with contextlib.suppress(CheckpointError):
        if Run(order.run).config.teacher_sha256 == kept.teacher_sha256:
            return kept
    return None


@nothing_cached()  # as for products
def make_teacher(order: TeacherOrder) -> TeacherResult:
    """Make a shared teacher unless it exists; a failure is part of the result."""
    started = time.perf_counter()
    try:
        if (made := made_teacher(order)) is not None:
            return msgspec.structs.replace(made, state="unchanged")
        kept = _kept(order)
        fingerprint = teacher_fingerprint(order)
        stale = stale_run(order, kept, fingerprint)
        keep(order, msgspec.structs.replace(_result(order, "begun", fingerprint), replaces=stale))
        resume = kept is not None and kept.fingerprint == fingerprint and not stale
        narrow = NarrowRanges()
        with counted(narrow):
            trained = _distil(order, resume=resume)
        config = trained.run.config
        result = msgspec.structs.replace(
            _result(order, "trained", fingerprint),
            weights=config.weights,
            products={
                name: sum(file.startswith(f"{name}/") for file in config.train_images) for name in order.products
            },
            held_out_images=len(config.validation_images),
            teacher_sha256=config.teacher_sha256,
            remarks=[*trained.remarks, *skipped_remark(trained.bad_images.values()), *narrow.remarks()],
        )
    except Exception as error:  # a failure of one teacher does not stop products without it
        result = failed_teacher(order, remote_error(error).record)
    result = msgspec.structs.replace(result, seconds=round(time.perf_counter() - started, 1))
    keep(order, result)
    return result


def failed_teacher(order: TeacherOrder, error: dict[str, str]) -> TeacherResult:
    """Return the result of a teacher that could not be made; see :func:`.failed`."""
    return msgspec.structs.replace(_result(order, "failed", ""), error=error, **begun_before(_kept(order)))


def with_shared_teacher(order: ProductOrder) -> ProductOrder:
    """Return an order for the same product, with the shared teacher that was made for it."""
    name = order.product.shared_teacher
    assert name is not None
    return msgspec.structs.replace(order, product=order.product.with_teacher(Path(order.out) / TEACHERS / name))


def without_teacher(order: ProductOrder, teacher: TeacherResult) -> ProductResult:
    """Return the result of a product whose shared teacher could not be made."""
    error = dict(teacher.error or {})
    error["message"] = f"its shared teacher '{teacher.name}' was not made: {error.get('message', '')}"
    return failed(order, error)


def later_product(result: ProductResult, teacher: TeacherResult) -> ProductResult:
    """Add a remark to a product's result if its teacher did not learn from the product's images."""
    if result.name in teacher.products or result.error is not None:
        return result
    text = (
        f"[product|products] came after the shared teacher '{teacher.name}', which is kept (another name makes one "
        f"from the images of all, and trains {', '.join(teacher.products)} again too)"
    )
    return msgspec.structs.replace(
        result, remarks=[*result.remarks, *remark("unknown_to_teacher", text, [result.name])]
    )


def _distil(order: TeacherOrder, *, resume: bool) -> TrainResult:
    import torch

    from kd_train.training.train import distil_union
    from kd_train.training.union_images import Member

    torch.set_num_threads(order.threads)
    # By name: the order of the catalogue decides nothing.
    members = {name: Member(Path(one.data), one.train_options()) for name, one in sorted(order.products.items())}
    order.run.parent.mkdir(parents=True, exist_ok=True)
    options = order.products[next(iter(members))].train_options(resume=resume, force=not resume)
    # The INT8 stage is of the products' students.
    return distil_union(members, order.run, dataclasses.replace(options, precision="fp32"))


def _kept(order: TeacherOrder) -> TeacherResult | None:
    return read_kept(order.result, TeacherResult)


def _result(order: TeacherOrder, state: str, fingerprint: str) -> TeacherResult:
    return TeacherResult(
        name=order.name,
        state=state,  # type: ignore[arg-type]
        fingerprint=fingerprint,
        settings=order.settings,
    )
