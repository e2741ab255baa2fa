"""``kdx score``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from kdx.cli.error_output import Interrupted
from kdx.cli.output import (
    err,
    make_table,
    out,
    print_json,
    progress_for,
    report_remarks,
    say,
    say_nothing,
    show_result,
    warn,
)
from kdx.cli.shared_options import (
    ADDRESS_OPTION,
    COCO_OPTION,
    CSV_OPTION,
    JSON_OPTION,
    MAPS_OPTION,
    MASKS_OPTION,
    SEMICOLONS_OPTION,
    one_of,
    require_effect,
)
from kdx.imaging.value_range import describe_narrow
from kdx.workflows.packages import needs

if TYPE_CHECKING:
    from kdx.archive.score_records import Summary


def score(
    bundle: Path = typer.Argument(help="Bundle to score with."),
    archive: Path = typer.Argument(help="Folder of images, in folders of any depth."),
    folder: Path = typer.Option(..., "--out", "-o", help="Folder of the scores; the same command continues there."),
    engine: str = typer.Option("local", help="local: processes of this machine; ray: actors of a Ray cluster."),
    workers: int | None = typer.Option(
        None, min=1, help="Processes, or actors, at most; each has a detector. Default: as many as there are cores for."
    ),
    threads_per_worker: int = typer.Option(1, min=1, max=1024, help="Threads of each."),
    batch: int = typer.Option(1, min=1, help="Images that go through the graph at once; more for GPUs."),
    shard_size: int | None = typer.Option(
        None,
        min=1,
        help="Images in a shard, a file of the output: what a kill loses at most, of each worker. Default: 1000.",
    ),
    backend: str = typer.Option("auto", help="Backend to run on. Default: what kdx.load takes here, for all workers."),
    precision: str | None = typer.Option(None, help="Graph of the bundle. Default: the fastest that passes."),
    address: str | None = ADDRESS_OPTION,
    max_retries: int = typer.Option(
        2, min=0, help="How often a shard whose process died is tried again before its images are tried one by one."
    ),
    max_bad_share: float = typer.Option(0.1, help="Stop when more than this share of the images cannot be used."),
    retry_bad: bool = typer.Option(False, "--retry-bad", help="Score shards with such images once more."),
    csv: bool = CSV_OPTION,
    semicolons: bool = SEMICOLONS_OPTION,
    maps: str | None = MAPS_OPTION,
    masks: bool = MASKS_OPTION,
    coco: bool = COCO_OPTION,
    min_area: float | None = typer.Option(None, help="With --coco: the smallest area of a region, in pixels."),
    force: bool = typer.Option(False, "--force", help="Discard what an earlier call left in the output folder."),
    json: bool = JSON_OPTION,
) -> None:
    """Score an archive of images, by several processes or a cluster, into Parquet files.

    Ctrl-C, a kill or a full disk lose the shards that were being scored, at most: the same command
    continues. Images that cannot be read, or that kill their process, are recorded with the reason
    and skipped. Images that are added to the archive between two calls are counted, and scored by
    the next call after all others are done.

    Read the scores with anything that reads Parquet: shards/*.parquet; --csv writes them as one
    table when all are there. Maps, masks and regions are written with the scores of their images:
    --coco writes a file for each shard. On a cluster, archive, bundle and output must be on storage
    that every machine sees under the same path.
    """
    with needs("ray" if engine == "ray" else "archive", f"kdx score --engine {engine}"):
        import pyarrow  # noqa: F401  # missed now, and not in every process

        if engine == "ray":
            import ray.data  # noqa: F401

    from kdx.archive.score_request import ScoreRequest
    from kdx.archive.score_run import score_archive
    from kdx.decision.map_files import map_format
    from kdx.storage.spreadsheet import csv_style

    require_effect({"--semicolons": semicolons and not csv}, "--csv")
    require_effect({"--min-area": min_area is not None and not coco}, "--coco")

    request = ScoreRequest(
        bundle=bundle,
        archive=archive,
        out=folder,
        engine=one_of("--engine", engine, ("local", "ray")),  # type: ignore[arg-type]
        workers=workers,
        threads_per_worker=threads_per_worker,
        batch=batch,
        shard_size=shard_size,
        backend=backend,
        precision=precision,
        address=address,
        max_retries=max_retries,
        max_bad_share=max_bad_share,
        retry_bad=retry_bad,
        force=force,
        csv=csv_style(semicolons=semicolons) if csv else None,
        maps=None if maps is None else map_format(maps),
        masks=masks,
        coco=coco,
        min_area=min_area,
    )
    try:
        with needs("bands", "reading frames in bands"):
            summary = score_archive(request, progress_for(json), say_nothing if json else say)
    except KeyboardInterrupt:
        raise Interrupted(f"what is finished is in '{folder}': run the same command again to continue") from None
    if json:
        print_json(summary)
    else:
        show_scores(folder, summary)


def show_scores(folder: Path, summary: Summary) -> None:
    """Print what an archive's scores are, and what this call did."""
    from kdx.archive.score_text import describe_summary

    settings = summary.settings
    table = make_table(f"{settings.archive}: {settings.backend}, {settings.precision}", "", "images", "percent")
    for name, images in {**summary.decisions, "skipped": summary.bad}.items():
        table.add_row(name, f"{images:,}", f"{100 * images / summary.frames:.3f}")
    table.add_section()
    table.add_row("all", f"{summary.frames:,}", "", style="bold")
    out.print(table)
    if summary.threshold is None:
        err.print("[yellow]not calibrated:[/] no verdicts, only scores; calibrate first, and begin again with --force")
    if summary.narrow_levels is not None:
        warn(describe_narrow(summary.narrow, summary.narrow_example, summary.narrow_levels))
    for example in summary.bad_examples:
        err.print(f"[yellow]skipped:[/] {escape(example['path'])}: {escape(example['error'])}")
    if summary.bad > len(summary.bad_examples):
        err.print(f"[yellow]and {summary.bad - len(summary.bad_examples)} more[/]: the column 'error' has the reasons")
    report_remarks(summary.remarks)
    show_result(folder / "shards", describe_summary(summary))
