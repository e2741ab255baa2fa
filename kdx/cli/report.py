"""``kdx report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from kdx.cli.output import out, print_json, progress_for, report_bad, report_remarks
from kdx.cli.shared_options import (
    FORCE_OPTION,
    GOOD_FOLDER_OPTION,
    JSON_OPTION,
    MAX_BAD_OPTION,
    SUBFOLDERS_OPTION,
    THREADS_OPTION,
)
from kdx.text import number_of, percent
from kdx.workflows.packages import needs

if TYPE_CHECKING:
    from kdx.workflows.report.page import Content


def report(
    bundle: Path = typer.Argument(help="Bundle to report on."),
    data: Path = typer.Argument(
        help="Folder in MVTec layout or a published data set: its test images; a folder of good images."
    ),
    output: Path = typer.Option(Path("report.html"), "--out", "-o", help="The page to write."),
    category: str | None = typer.Option(None, help="Category of a data set that has several."),
    subfolders: bool = SUBFOLDERS_OPTION,
    good_folder: list[str] = GOOD_FOLDER_OPTION,
    backend: str = typer.Option("auto", help="Backend that scores the images."),
    precision: str = typer.Option("fp32", help="Graph of the bundle: fp32, or another that it holds."),
    threads: int | None = THREADS_OPTION,
    max_images: int = typer.Option(10_000, min=2, help="Score a sample where there are more images."),
    latency: bool = typer.Option(True, help="Time every backend too, which takes some seconds for each."),
    max_bad_images: int = MAX_BAD_OPTION,
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Write one page that opens offline: how a bundle decides, and the effect of other thresholds.

    Curves, scores with a threshold slider and the kdx calibrate command for it, the worst mistakes
    as pictures, defect types, the certificate and latencies on this machine. Without defective
    images, or without masks, the page says what it cannot show.
    """
    with needs("report,cpu", "the report"):
        from kd_train.datasets import open_data
        from kdx.workflows.report.gather import gather_content, require_writable_page
        from kdx.workflows.report.page import render_page
    from kdx.bundle.open import open_bundle
    from kdx.folders.data_folder import FolderOptions
    from kdx.storage.files import remove_leftovers, write_atomic

    require_writable_page(output, force=force)
    opened = open_bundle(bundle)
    progress = progress_for(json)
    options = FolderOptions(subfolders, tuple(good_folder))
    folder = open_data(data, category, options, progress=progress)
    content = gather_content(
        opened,
        data,
        folder,
        category,
        options,
        backend,
        precision,
        threads,
        max_images,
        max_bad_images,
        latency,
        progress,
    )
    page = render_page(content)
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output)
    write_atomic(output, page)
    _show(content, output, len(page), json=json)


def _show(content: Content, output: Path, size: int, *, json: bool) -> None:
    from kdx.workflows.report.page import notes_of

    result, notes = content.result, notes_of(content)
    if json:
        print_json(
            {
                "bundle": str(content.bundle.path),
                "report": str(output),
                "bytes": size,
                "images_found": content.material.found,
                "sampled": content.material.is_sampled,
                "passed_over_trained_on": content.material.trained_on,
                "pictures": len(content.pictures),
                "evaluation": result,
                "certificate": content.certificate,
                "latency": content.timing.latencies if content.timing else None,
                "notes": notes,
                "remarks": content.material.remarks,
            }
        )
        return
    report_bad(result.bad_images)
    report_remarks((*content.material.remarks, *result.remarks))
    for note in notes:
        out.print(f"[yellow]note:[/] {escape(note)}")
    rates = f"image AUROC {percent(result.image_auroc)} %, pixel AUROC {percent(result.pixel_auroc)} %, "
    rates += f"PRO {percent(result.pro)} %; at the threshold {percent(result.false_reject_rate)} % of "
    rates += f"{result.good} good images rejected, {percent(result.detection_rate)} % of {result.defective} defective"
    out.print(rates)
    out.print(
        f"[bold]{escape(str(output))}[/]: {size / 1e6:.1f} MB, "
        f"pictures of {number_of(len(content.pictures), '[image|images]')}"
    )
