"""``kdx evaluate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kdx.cli.options import (
    FORCE_OPTION,
    GOOD_FOLDER_OPTION,
    JSON_OPTION,
    MAX_BAD_OPTION,
    SUBFOLDERS_OPTION,
    THREADS_OPTION,
    require_effect,
)
from kdx.cli.output import make_table, out, print_json, progress_for, report_bad, report_remarks
from kdx.storage.files import refuse_existing
from kdx.storage.json_output import write_json
from kdx.text import percent
from kdx.workflows.packages import needs

if TYPE_CHECKING:
    from kdx.imaging.image_identity import KnownImages


def evaluate(
    detector: Path = typer.Argument(help="Run folder or bundle."),
    data: Path = typer.Argument(
        help="Folder in MVTec layout (test/good, test/DEFECT_TYPE, ground_truth/ for pixels), or a published data set."
    ),
    category: str | None = typer.Option(None, help="Category of a data set that has several."),
    subfolders: bool = SUBFOLDERS_OPTION,
    good_folder: list[str] = GOOD_FOLDER_OPTION,
    backend: str = typer.Option("auto", help="Backend that scores a bundle."),
    precision: str = typer.Option("fp32", help="Graph of a bundle: fp32, or another that it holds."),
    threads: int | None = THREADS_OPTION,
    max_bad_images: int = MAX_BAD_OPTION,
    output: Path | None = typer.Option(
        None, "--output", help="Also write the result, with every score, to this JSON file."
    ),
    checkpoint: str | None = typer.Option(None, help="Of a run: last or best. Default: as the recipe says."),
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Measure how well defects are distinguished from good parts.

    Image AUROC; with masks also pixel AUROC and PRO (per-region overlap up to a false-positive rate
    of 0.3); overall and for each defect type; in a calibrated bundle also false rejects and
    detections at the threshold, and with a review band the shares in each of the three bands. In
    percent.
    """
    with needs("train,cpu", "evaluation"):
        from kd_train.data.golden_images import golden_remarks
        from kd_train.datasets import open_data
        from kd_train.evaluation.evaluate import evaluate as evaluate_detector
        from kdx.folders.copies import in_test
        from kdx.imaging.grey_conversion import grey_conversion_remarks
    from kdx.bundle.open import open_bundle
    from kdx.folders.data_folder import FolderOptions, require_test
    from kdx.loading.load import is_run, load

    require_effect({"--force": force and output is None}, "--output")
    if output is not None:
        refuse_existing(output, force=force)
    loaded = load(detector, backend, threads, checkpoint, precision)
    with loaded:
        folder = open_data(data, category, FolderOptions(subfolders, tuple(good_folder)), progress=progress_for(json))
        result = evaluate_detector(
            loaded,
            folder.root,
            require_test(folder),
            max_bad_images=max_bad_images,
            unused_masks=folder.unused_masks,
            progress=progress_for(json),
        )
    remarks = in_test(folder.test, _trained_on(detector), progress_for(json))
    if not is_run(detector):
        remarks += golden_remarks(open_bundle(detector), folder.test)
    remarks += grey_conversion_remarks([image.path for image in folder.test], loaded.input)
    result = replace(result, remarks=(*folder.remarks, *remarks))
    if output is not None:
        write_json(output, result)
    if json:
        print_json(result)
        return
    report_bad(result.bad_images)
    report_remarks(result.remarks)
    title = f"{detector} on {' '.join([str(data), *filter(None, [folder.category])])}, percent"
    table = make_table(title, "", "images", "image AUROC", "pixel AUROC", "PRO", "detected")
    for name, part in result.types.items():
        row = (percent(v) for v in (part.image_auroc, part.pixel_auroc, part.pro, part.detection_rate))
        table.add_row(name, str(part.images), *row)
    table.add_section()
    row = (percent(v) for v in (result.image_auroc, result.pixel_auroc, result.pro, result.detection_rate))
    table.add_row("all", str(result.good + result.defective), *row, style="bold")
    out.print(table)
    if result.masks is None:
        out.print("no masks were found, so there are no pixel figures (ground_truth/DEFECT_TYPE/NAME_mask.png)")
    if result.false_reject_rate is not None:
        out.print(f"false rejects: {percent(result.false_reject_rate)} % of {result.good} good images")
    for name, bands in (result.bands or {}).items():
        shares = (bands.accept, bands.review, bands.reject)
        out.print(f"{name} images: accepted {{}} %, to review {{}} %, rejected {{}} %".format(*map(percent, shares)))


def _trained_on(detector: Path) -> KnownImages:
    """Return the images that a run or a bundle was trained on."""
    from kdx.bundle.open import open_bundle
    from kdx.loading.load import is_run

    if not is_run(detector):
        return open_bundle(detector).training_images()
    from kd_train.training.run import Run

    return Run(detector).config.known_images()
