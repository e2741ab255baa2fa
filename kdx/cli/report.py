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
        from kdx.workflows.report.gather import ReportRequest
        from kdx.workflows.report.write import record_of, write_report
    from kdx.folders.data_folder import FolderOptions

    content, size = write_report(
        bundle,
        data,
        output,
        ReportRequest(backend, precision, threads, max_images, max_bad_images, latency),
        category=category,
        options=FolderOptions(subfolders, tuple(good_folder)),
        force=force,
        progress=progress_for(json),
    )
    if json:
        print_json(record_of(content, output, size))
    else:
        _show(content, output, size)


def _show(content: Content, output: Path, size: int) -> None:
    from kdx.workflows.report.page import notes_of

    result, notes = content.result, notes_of(content)
    report_bad(result.bad_images)
    report_remarks((*content.material.remarks, *result.remarks))
    for note in notes:
        out.print(f"[yellow]note:[/] {escape(note)}")
    rates = f"image AUROC {percent(result.image_auroc)} %, pixel AUROC {percent(result.pixel_auroc)} %, "
    rates += f"PRO {percent(result.pro)} %; at the threshold {percent(result.false_reject_rate)} % of "
    rates += f"{number_of(result.good, 'good [image|images]')} rejected, {percent(result.detection_rate)} % of "
    rates += f"{result.defective} defective"
    out.print(rates)
    out.print(
        f"[bold]{escape(str(output))}[/]: {size / 1e6:.1f} MB, "
        f"pictures of {number_of(len(content.pictures), '[image|images]')}"
    )
