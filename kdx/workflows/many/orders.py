"""From a catalogue to checked orders, and from their results to a summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from kdx.errors import KdxError
from kdx.progress import Progress
from kdx.runtime.machine import usable_cores
from kdx.storage.json_records import now
from kdx.workflows.many.catalog import of_keys, read_catalog
from kdx.workflows.many.engines import run_local, run_ray
from kdx.workflows.many.product_records import SCHEMA, CatalogSummary, ProductOrder, ProductResult


def orders_of(catalog: Path, folder: Path, engine: str, workers: int | None, threads: int | None) -> list[ProductOrder]:
    """Read the catalogue and check every product before any is trained."""
    from kd_train.training.train import check_options, recipe_of

    count = threads or max(1, usable_cores() // (workers or 1) if engine == "local" else 1)
    orders = []
    for name, product in read_catalog(catalog).items():
        order = ProductOrder(name=name, product=product, out=str(folder.resolve()), threads=count)
        try:
            options = product.train_options()
            check_options(options)
            recipe_of(options)
        except KdxError as error:
            raise of_keys(error, f"[products.{name}]") from error
        orders.append(order)
    return orders


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
