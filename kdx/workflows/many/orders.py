"""From a catalogue to checked orders, and from their results to a summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from kdx.calibration.rates import require_rates
from kdx.errors import KdxError, OptionError
from kdx.progress import Progress
from kdx.runtime.backend_table import find_backend
from kdx.runtime.machine import usable_cores
from kdx.storage.json_records import now
from kdx.workflows.export import require_sizes
from kdx.workflows.many.catalog import Product, of_keys, read_catalog
from kdx.workflows.many.engines import run_local, run_ray
from kdx.workflows.many.product_records import SCHEMA, CatalogSummary, ProductOrder, ProductResult


def orders_of(catalog: Path, folder: Path, engine: str, workers: int | None, threads: int | None) -> list[ProductOrder]:
    """Read the catalogue and check every product before any is trained."""
    from kd_train.training.from_options import check_options, recipe_of

    count = threads or max(1, usable_cores() // (workers or 1) if engine == "local" else 1)
    orders = []
    for name, product in read_catalog(catalog).items():
        order = ProductOrder(name=name, product=product, out=str(folder.resolve()), threads=count)
        try:
            options = product.train_options()
            check_options(options)
            recipe_of(options)
            _require_deployable(product)
        except KdxError as error:
            raise of_keys(error, f"[products.{name}]") from error
        orders.append(order)
    return orders


def _require_deployable(product: Product) -> None:
    """Check what export and calibration would refuse, hours later.

    Raises:
        KdxError: A value is invalid, or has no effect.
    """
    from kd_export.onnx.onnx_export import require_batch

    require_rates(product.false_reject_rate, product.review_rate, with_defects=False)
    require_batch(product.max_batch)
    require_sizes(product.input_size, product.frame)
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
    """Make every product's bundle; one that fails does not stop the others."""
    Path(orders[0].out).mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    results: dict[str, ProductResult] = {}
    with progress.task("products", len(orders)) as task:
        found = (
            run_ray(orders, workers, max_retries, address, gpus)
            if engine == "ray"
            else run_local(orders, workers or 1, max_retries, say)
        )
        for result in found:
            results[result.name] = result
            task.advance(1, f"{result.name} {result.state}")
    products = [results[order.name] for order in orders]
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
    )
