"""From a catalogue to checked orders, and from their results to a summary."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from kdx.calibration.rates import require_rates
from kdx.errors import KdxError, OptionError, OutputError
from kdx.folders.apart import require_apart_from_images
from kdx.loading.load import require_outside_bundles
from kdx.progress import Progress
from kdx.runtime.backend_table import find_backend
from kdx.runtime.machine import usable_cores
from kdx.storage.json_records import now
from kdx.storage.locks import locked_output
from kdx.workflows.export import require_sizes
from kdx.workflows.many.catalog import Product, of_keys, read_catalog
from kdx.workflows.many.engines import Order, Result, run_local, run_ray
from kdx.workflows.many.product_records import (
    RESULTS,
    SCHEMA,
    TEACHERS,
    CatalogSummary,
    ProductOrder,
    ProductResult,
    TeacherResult,
    read_kept,
)
from kdx.workflows.many.shared_teacher import later_product, teacher_orders, with_shared_teacher, without_teacher


def orders_of(catalog: Path, folder: Path, engine: str, workers: int | None, threads: int | None) -> list[ProductOrder]:
    """Read the catalogue and check every product before any is trained.

    Raises:
        DataError: The catalogue cannot be read.
        OptionError: A value of the catalogue is invalid, or has no effect.
        OutputError: The folder holds something else than products of a catalogue, or lies in a
            bundle or a run.
    """
    from kd_train.training.from_options import check_options, recipe_of

    require_outside_bundles(folder, "out")
    _require_own(folder, catalog)
    count = threads or max(1, usable_cores() // (workers or 1) if engine == "local" else 1)
    orders = []
    products = read_catalog(catalog)
    require_apart_from_images("runs and bundles", folder, [Path(product.data) for product in products.values()])
    for name, product in products.items():
        order = ProductOrder(name=name, product=product, out=str(folder.resolve()), threads=count)
        try:
            options = product.train_options()
            check_options(options)
            recipe_of(options)
            _require_deployable(product)
        except KdxError as error:
            raise of_keys(error, f"[products.{name}]") from error
        orders.append(order)
    teacher_orders(orders)
    return orders


def _require_own(folder: Path, catalog: Path) -> None:
    """Check that a folder holds results of an earlier call, or nothing but the catalogue.

    Names alone do not tell: other programs write to ``results`` too.
    """
    kinds: dict[str, type[Result]] = {RESULTS: ProductResult, TEACHERS: TeacherResult}
    found = [read_kept(path, kind) for name, kind in kinds.items() for path in (folder / name).glob("*.json")]
    if not folder.exists() or any(found):
        return

    def is_new(path: Path) -> bool:
        # A call that was killed before its first result leaves an empty folder.
        return path.resolve() == catalog.resolve() or (
            path.name in kinds and path.is_dir() and not any(path.glob("[!.]*"))
        )

    if not folder.is_dir() or not all(map(is_new, folder.iterdir())):
        raise OutputError(f"'{folder}' exists and is not of kdx train-many", fix="choose another `out`")


def _require_deployable(product: Product) -> None:
    """Check what export and calibration would refuse, hours later.

    Raises:
        KdxError: A value is invalid, or has no effect.
    """
    from kd_export.onnx.onnx_export import require_batch

    if product.precision == "int8" and "int8" not in product.precisions:
        raise OptionError(
            "`precision=int8` has no effect: the bundle gets no INT8 graph",
            expected='precisions = ["fp32", "int8"]',
            received=f"precisions = {json.dumps(product.precisions)}",
            fix="add int8 to `precisions`, or leave it out",
        )
    require_rates(product.false_reject_rate, product.review_rate, with_defects=False)
    require_batch(product.max_batch)
    require_sizes(product.input_size, product.frame)
    if product.crop is not None and product.input_size is not None:
        raise OptionError(
            "`crop` and `input_size` exclude each other: the window lies in images of their own size",
            received=f"`input_size={product.input_size[0]}x{product.input_size[1]}`",
            fix="leave it out, or leave out `crop`",
        )
    if product.backend != "auto":
        find_backend(product.backend)
    of_tiles = {"frame": product.frame, "overlap": product.overlap, "tile_batch": product.tile_batch}
    of_images = {"input_size": product.input_size, "max_batch": None if product.max_batch == 32 else product.max_batch}
    given = [name for name, value in (of_tiles if product.tile is None else of_images).items() if value is not None]
    if given and product.tile is None:
        raise OptionError(f"`{given[0]}` has no effect without tiles", fix="give `tile` too, or leave it out")
    if given:
        raise OptionError(f"`{given[0]}` is for whole images", fix="leave it out, or leave out `tile`")


def make_all(
    catalog: Path,
    orders: list[ProductOrder],
    engine: str,
    workers: int | None,
    max_retries: int,
    address: str | None,
    gpus: float,
    progress: Progress,
    say: Callable[[str], None],
) -> CatalogSummary:
    """Make shared teachers, then each product's bundle; one that fails does not stop others.

    Raises:
        OutputError: Another call works in the output folder.
    """

    def run(what: Sequence[Order], description: str) -> Iterator[Result]:
        if not what:
            return
        with progress.task(description, len(what)) as task:
            found = (
                run_ray(what, workers, max_retries, address, gpus)
                if engine == "ray"
                else run_local(what, workers or 1, max_retries, say)
            )
            for result in found:
                yield result
                task.advance(1, f"{result.name} {result.state}")

    folder = Path(orders[0].out)
    (folder / RESULTS).mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    # As in kdx fit: other folders take locks of theirs for moments.
    with locked_output(folder / RESULTS, "kdx train-many", folder):
        teachers = [each for each in run(teacher_orders(orders), "shared teachers") if isinstance(each, TeacherResult)]
        products = _make_products(orders, {teacher.name: teacher for teacher in teachers}, run)
    states = [product.state for product in products]
    return CatalogSummary(
        schema=SCHEMA,
        catalog=str(catalog),
        engine=engine,
        trained=states.count("trained"),
        unchanged=states.count("unchanged"),
        failed=states.count("failed"),
        seconds=round(time.perf_counter() - started, 1),
        created=now(),
        products=products,
        teachers=teachers,
    )


def _make_products(
    orders: Sequence[ProductOrder],
    teachers: Mapping[str, TeacherResult],
    run: Callable[[Sequence[Order], str], Iterator[Result]],
) -> list[ProductResult]:
    """Make the products whose shared teacher, if they have one, was made; return every result."""
    served = {order.name: teachers[name] for order in orders if (name := order.product.shared_teacher)}
    results = {
        order.name: without_teacher(order, served[order.name])
        for order in orders
        if order.name in served and served[order.name].error is not None
    }
    possible = [
        with_shared_teacher(order) if order.name in served else order for order in orders if order.name not in results
    ]
    results |= {each.name: each for each in run(possible, "products") if isinstance(each, ProductResult)}
    return [
        later_product(results[order.name], served[order.name]) if order.name in served else results[order.name]
        for order in orders
    ]
