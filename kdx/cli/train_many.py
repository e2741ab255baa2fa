"""``kdx train-many``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from kdx.cli.error_output import Interrupted
from kdx.cli.output import also_written, make_table, out, print_json, progress_for, say, shown
from kdx.cli.shared_options import ADDRESS_OPTION, JSON_OPTION, one_of, require_effect
from kdx.text import number, percent, spelled
from kdx.workflows.packages import needs

if TYPE_CHECKING:
    from kdx.workflows.many.product_records import CatalogSummary


def train_many(
    catalog: Path = typer.Argument(help="TOML: [defaults], and a table [products.NAME] for each product."),
    folder: Path = typer.Option(..., "--out", "-o", help="Folder of the bundles; the same command continues there."),
    engine: str = typer.Option("local", help="local: processes of this machine; ray: tasks on a Ray cluster."),
    workers: int | None = typer.Option(
        None, min=1, help="Products at a time. Default: one on this machine; as many as a cluster's cores take."
    ),
    threads: int | None = typer.Option(
        None, min=1, max=1024, help="Threads of each. Default: this machine's cores, divided by the products at a time."
    ),
    gpus_per_product: float = typer.Option(
        0.0, min=0.0, help="With ray: the share of a GPU, or the number of GPUs, that each product is trained on."
    ),
    address: str | None = ADDRESS_OPTION,
    max_retries: int = typer.Option(1, min=0, help="How often a product whose process died is started again."),
    json: bool = JSON_OPTION,
) -> None:
    """Train a bundle for each product of a catalogue.

    Each product is trained, exported, calibrated, evaluated where it has labelled test images, and
    verified, in a process of its own. Keys of a product are the options of kdx train, with
    underscores (good_folders is a list of what --good-folder takes); options (the method's own);
    and, of kdx export and kdx calibrate, precisions, input_size, channel_order, max_batch, frame,
    overlap, tile_batch, checkpoint, false_reject_rate, review_rate, per_position and backend. Paths
    are relative to the catalogue; on a cluster they, and --out, must be on storage that every
    machine sees under the same path.

    Products with the same shared_teacher = "NAME" get one compact teacher. It learns before them,
    from the good images of all of them, and is kept in teachers/NAME.

    The folder gets NAME.kdx for each product, runs/NAME, and summary.json. Run the same command
    again to continue: products that are finished, and of which neither catalogue nor images
    changed, are not trained again. Exit status 1 if one failed; the others are made all the same.
    """
    from kdx.workflows.many.orders import make_all, orders_of

    with needs("train,cpu", "training"):
        import kd_train.training.train  # noqa: F401  # missed now, and not in every process
    if engine == "ray":
        with needs("ray", "kdx train-many --engine ray"):
            import ray  # noqa: F401
    one_of("--engine", engine, ("local", "ray"))
    if engine != "ray":
        ray_options = {"--address": address is not None, "--gpus-per-product": gpus_per_product > 0}
        require_effect(ray_options, "--engine ray")
    orders = orders_of(catalog, folder, engine, workers, threads)
    try:
        summary = make_all(
            catalog, orders, engine, workers, max_retries, address, gpus_per_product, progress_for(json), say
        )
    except KeyboardInterrupt:
        raise Interrupted(f"what is finished is in '{folder}': run the same command again to continue") from None
    with also_written(folder / "summary.json", summary):
        if json:
            print_json(summary)
        else:
            show_products(folder, summary)
    if summary.failed:
        raise typer.Exit(1)


def show_products(folder: Path, summary: CatalogSummary) -> None:
    """Print the products and what became of them."""
    headings = ("product", "method", "images", "image AUROC", "threshold", "false rejects", "detected", "s", "state")
    table = make_table(f"{folder}: percent", *headings, left=("method", "state"))
    colours = {"trained": "green", "unchanged": "dim", "failed": "bold red"}
    for one in summary.products:
        images = "–" if one.train_images is None else f"{one.train_images} + {one.held_out_images}"
        shares = (percent(one.false_reject_rate), percent(one.detection_rate))
        state = f"[{colours[one.state]}]{one.state}[/]"
        figures = (percent(one.image_auroc), number(one.threshold), *shares, f"{one.seconds:.0f}")
        table.add_row(one.name, one.method, images, *figures, state)
    out.print(table)
    for one in summary.products:
        for remark in one.remarks:
            out.print(f"{one.name}: {escape(str(remark))}")
        for precision, reason in one.refused.items():
            out.print(f"{one.name}: no {precision}: {escape(reason)}")
        if one.error is not None:
            detail = "; ".join(one.error[key] for key in ("message", "received", "fix") if one.error.get(key))
            out.print(f"[bold red]{one.name} failed:[/] {escape(spelled(detail))}")
    for teacher in summary.teachers:
        said = f"shared teacher {teacher.name} {teacher.state}"
        if teacher.error is None:
            images = ", ".join(f"{count} of {name}" for name, count in teacher.products.items())
            out.print(f"{said}, {teacher.weights}: images {images}")
        else:
            out.print(f"[bold red]{said}:[/] {escape(spelled(teacher.error['message']))}")
        for note in teacher.remarks:
            out.print(f"{said}: {escape(str(note))}")
    counts = f"{summary.trained} trained, {summary.unchanged} unchanged, {summary.failed} failed"
    out.print(f"{counts}; {shown(folder / 'summary.json')}")
