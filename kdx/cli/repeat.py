"""``kdx repeat``."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from kdx.cli.output import out, print_json, progress_for, report_bad, report_remarks, shown
from kdx.cli.shared_options import FORCE_OPTION, JSON_OPTION, MAX_BAD_OPTION, THREADS_OPTION, require_effect
from kdx.workflows.packages import needs


def repeat(
    bundle: Path = typer.Argument(help="Calibrated bundle."),
    folder: Path = typer.Argument(help="Folder with many images of one part."),
    picture: Path | None = typer.Option(None, "--picture", help="Draw the scores into this PNG file."),
    backend: str = typer.Option("auto", help="Backend to run on."),
    threads: int | None = THREADS_OPTION,
    max_bad_images: int = MAX_BAD_OPTION,
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Say how well the detector repeats itself on one part (type-1 study).

    Photograph one part 50 times, as the line does. The spread of the scores is compared with the
    threshold: Cg = 0.2 threshold / (6 s), of which at least 1.33 is asked for, and the margin of
    this part in standard deviations. A bias is not defined: a score has no reference value.
    """
    from kdx.folders.apart import require_apart_from_data
    from kdx.loading.load import require_new_file
    from kdx.workflows.repeat import describe
    from kdx.workflows.repeat import repeat as study_of

    require_effect({"--force": force and picture is None}, "--picture")
    if picture is not None:
        with needs("fit", "kdx repeat --picture"):
            from kdx.workflows.repeat_plot import require_png, write_plot
        require_png(picture)
        require_new_file(picture, "picture", force=force)
        require_apart_from_data("the picture", picture, [folder], option="picture")
    study = study_of(bundle, folder, backend, threads, max_bad_images=max_bad_images, progress=progress_for(json))
    if json:
        print_json({"bundle": str(bundle), "folder": str(folder), **study.as_record()})
    else:
        report_bad(study.bad_images)
        report_remarks(study.remarks)
        out.print(f"[bold]{shown(bundle)}[/], {study.precision.upper()} by {study.backend}: {shown(folder)}")
        for line in describe(study.found):
            out.print(f"  {escape(line)}")
    if picture is not None:
        write_plot(study, bundle.name, picture)  # last: the study must not be lost with the picture
        if not json:
            out.print(f"picture: {shown(picture)}")
