"""``kdx predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kdx.cli.error_output import LinesCommand, again
from kdx.cli.output import err, out, print_json_line, progress_for, report_bad, report_remarks, shown, warn
from kdx.cli.shared_options import (
    COCO_OPTION,
    CSV_OPTION,
    FORCE_OPTION,
    MAPS_OPTION,
    MASKS_OPTION,
    MAX_BAD_OPTION,
    REQUIRE_SIGNATURE_OPTION,
    SEMICOLONS_OPTION,
    THREADS_OPTION,
    require_effect,
)
from kdx.cli.verdict_table import show_verdicts
from kdx.errors import ImageError, OptionError
from kdx.folders.image_search import LeftOut
from kdx.storage.files import is_disk_full
from kdx.workflows.os_errors import DiskFullError

if TYPE_CHECKING:
    from kdx.workflows.predict import RegionOptions

COMMAND = LinesCommand


def predict(
    context: typer.Context,
    bundle: Path = typer.Argument(help="Bundle (or run folder)."),
    images: list[Path] = typer.Argument(help="Image files and videos, or folders of images."),
    also: list[Path] = typer.Option([], "--also", help="Another bundle that judges each image too; may be repeated."),
    shared_teacher: bool = typer.Option(
        False, "--shared-teacher", help="With --also: one pass of the teacher, which all bundles must have in common."
    ),
    overlay: Path | None = typer.Option(None, "--overlay", help="Folder for heat maps (PNG)."),
    folder: Path | None = typer.Option(None, "--out", "-o", help="Folder for the files of the next options."),
    csv: bool = CSV_OPTION,
    semicolons: bool = SEMICOLONS_OPTION,
    maps: str | None = MAPS_OPTION,
    masks: bool = MASKS_OPTION,
    coco: bool = COCO_OPTION,
    yolo: bool = typer.Option(False, "--yolo", help="Write the regions of each image as a YOLO file."),
    regions: bool = typer.Option(
        False, "--regions", help="With --json: where the map exceeds the pixel threshold, the hottest first."
    ),
    min_area: float | None = typer.Option(
        None, help="With --regions, --coco or --yolo: the smallest area that is reported, in pixels of the camera."
    ),
    pixel_size_um: float | None = typer.Option(
        None, help="With --regions: side of what a pixel shows of the part, in µm; adds areas in mm²."
    ),
    backend: str = typer.Option("auto", help="Backend to run on."),
    precision: str | None = typer.Option(None, help="Graph of the bundle. Default: the fastest that passes."),
    threads: int | None = THREADS_OPTION,
    require_signature: list[Path] = REQUIRE_SIGNATURE_OPTION,
    max_bad_images: int = MAX_BAD_OPTION,
    force: bool = FORCE_OPTION,
    json: bool = typer.Option(
        False, "--json", help="Print JSON Lines: one object per image and bundle, then one of remarks."
    ),
) -> None:
    """Judge images: verdict, score, and margin to the threshold.

    The margin is score / threshold - 1: above zero is defective. Heat maps are scaled by the map
    value that hardly any good image reaches, and outlined at it. With --also, several bundles
    judge each image; teachers that they have in common are held once.

    Maps, masks and regions are those of the image as it stands upright. A map has the size that the
    detector computed; the JSON file beside it says which part of the image it covers.
    """
    from kdx.workflows.predict import ReadWithCare, expand, judge_files, left_behind, require_apart, without_scale
    from kdx.workflows.result_files import result_options

    bad, records = dict[str, str](), list[dict[str, Any]]()
    wanted = _region_options(regions, min_area, pixel_size_um, json=json, labels=coco or yolo)
    require_effect({"--semicolons": semicolons and not csv}, "--csv")
    require_effect({"--force": force and overlay is None and folder is None}, "--overlay or --out")
    results = result_options(folder, csv, maps, masks, coco, yolo, semicolons=semicolons, min_area=min_area or 0.0)
    left_out, care = LeftOut(), ReadWithCare()
    require_apart(overlay, images)
    require_apart(folder, images, option="out")
    try:
        judge_files(
            bundle,
            expand(images, left_out),
            records,
            bad,
            also=also,
            shared_teacher=shared_teacher,
            overlay=overlay,
            regions=wanted,
            results=results,
            backend=backend,
            precision=precision,
            threads=threads,
            require_signature=require_signature,
            max_bad_images=max_bad_images,
            force=force,
            progress=progress_for(json),
            each=print_json_line if json else None,
            care=care,
            on_uncalibrated=_warn_uncalibrated,
        )
    except BaseException as error:
        if isinstance(error, ImageError) and bad:
            bad.popitem()  # the error names it
        for said in left_behind(overlay, folder, records):
            warn(said)
        if isinstance(error, OSError) and is_disk_full(error) and (overlay is not None or folder is not None):
            raise DiskFullError(error, f"free space, and write all again: {again(context, '--force')}") from error
        raise
    finally:
        remarks = [*left_out.remarks, *care.remarks()]
        # Verdicts that were reached before a damaged image or Ctrl-C are shown all the same.
        if not json and records:
            show_verdicts(records)
            report_bad(bad)
        if json and remarks:
            print_json_line({"remarks": remarks})
        elif not json:
            report_remarks(remarks)
    if overlay is not None and not json:
        out.print(f"heat maps in {shown(overlay)}/")
        warn(without_scale(records))
    if folder is not None and not json:
        out.print(f"results in {shown(folder)}/")


def _warn_uncalibrated(bundle: Path) -> None:
    from kdx.workflows.predict import how_to_calibrate

    err.print(f"[yellow]not calibrated:[/] no verdicts, only scores. {shown(how_to_calibrate(bundle))}")


def _region_options(
    regions: bool, min_area: float | None, pixel_size_um: float | None, *, json: bool, labels: bool
) -> RegionOptions | None:
    from kdx.workflows.predict import RegionOptions

    if not regions:
        given = {"--min-area": min_area is not None and not labels, "--pixel-size-um": pixel_size_um is not None}
        require_effect(given, "--regions")
    if regions and not json:
        raise OptionError("--regions are printed as JSON", fix="add --json; heat maps show them too (--overlay)")
    return RegionOptions(min_area or 0.0, pixel_size_um) if regions else None
