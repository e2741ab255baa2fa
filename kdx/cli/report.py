"""``kdx report``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from kdx.cli.options import (
    FORCE_OPTION,
    GOOD_FOLDER_OPTION,
    JSON_OPTION,
    MAX_BAD_OPTION,
    SUBFOLDERS_OPTION,
    THREADS_OPTION,
)
from kdx.cli.output import out, percent, print_json, progress_for, report_bad, report_remarks
from kdx.progress import Progress
from kdx.workflows.packages import needs

if TYPE_CHECKING:
    from kdx.bundle.bundle import Bundle
    from kdx.folders.data_folder import FolderOptions, ImageFolder
    from kdx.workflows.report.page import Content, Timing

_RUNS, _WARM_UP = 100, 20
# So many values of maps, float32, and what sorting them takes: about a gigabyte and a half.
_MOST_PIXELS = 1 << 25


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
    latency: bool = typer.Option(True, help="Also time every backend, some seconds each."),
    max_bad_images: int = MAX_BAD_OPTION,
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Write one page that opens offline: how well a bundle decides, and what another threshold would change.

    Curves, scores with a threshold slider and the kdx calibrate command for it, the worst mistakes as pictures, defect
    types, the certificate and latencies on this machine. Without defective images, or without masks, the page says what
    it cannot show.
    """
    with needs("report,cpu", "the report"):
        from kd_train.datasets import open_data
        from kdx.workflows.report.page import render_page
    from kdx.bundle.open import open_bundle
    from kdx.folders.data_folder import FolderOptions
    from kdx.storage.files import tidy, write_atomic

    _require_possible(output, force=force)
    opened = open_bundle(bundle)
    progress = progress_for(json)
    options = FolderOptions(subfolders, tuple(good_folder))
    folder = open_data(data, category, options, progress=progress)
    content = _gather(
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
    tidy(output)
    write_atomic(output, page)
    _show(content, output, len(page), json=json)


def _require_possible(output: Path, *, force: bool) -> None:
    """Refuse an output that cannot be written, before minutes of work."""
    from kdx.errors import OutputError
    from kdx.storage.files import refuse_existing, require_writable

    if output.is_dir():
        raise OutputError(f"'{output}' is a folder", expected="a file's name", fix=f"e.g. -o {output / 'report.html'}")
    refuse_existing(output, force=force)
    require_writable(next(parent for parent in output.absolute().parents if parent.exists()))


def _gather(
    bundle: Bundle,
    data: Path,
    folder: ImageFolder,
    category: str | None,
    options: FolderOptions,
    backend: str,
    precision: str,
    threads: int | None,
    max_images: int,
    max_bad_images: int,
    latency: bool,
    progress: Progress,
) -> Content:
    from kd_train.data.golden_images import golden_remarks
    from kd_train.evaluation.evaluate import score_images, summarise
    from kdx.loading.bundle_detector import detector_of
    from kdx.runtime.backend_table import require_backends
    from kdx.verification.certificate import verify
    from kdx.workflows.report.page import Content
    from kdx.workflows.report.pictures import take_pictures
    from kdx.workflows.report.report_material import choose_images, sample

    material = choose_images(bundle, folder, max_images, progress)
    height, width = bundle.manifest.camera_map_size
    kept = {image.path for image in sample(material.images, max(1, _MOST_PIXELS // (height * width)))}
    with detector_of(bundle, backend, threads, precision) as detector:
        scored = score_images(
            detector,
            material.images,
            keeps_map=lambda image: image.path in kept,
            max_bad_images=max_bad_images,
            unused_masks=folder.unused_masks,
            progress=progress,
        )
        result = summarise(scored, detector, folder.root, progress)
        # A sample may hold fewer of them, and the figures are the sample's.
        result = replace(result, remarks=(*result.remarks, *golden_remarks(bundle, material.images)))
        pictures = take_pictures(detector, scored, folder.root, progress)
    return Content(
        bundle=bundle,
        data=data,
        category=category,
        options=options,
        material=material,
        scored=scored,
        result=result,
        pictures=pictures,
        certificate=verify(bundle, require_backends(bundle.path), threads=threads),
        timing=_time(bundle, threads, progress) if latency else None,
        detector=detector,
    )


def _time(bundle: Bundle, threads: int | None, progress: Progress) -> Timing:
    from kdx.errors import BackendError
    from kdx.runtime.latency import time_backends
    from kdx.runtime.machine import RUNTIME_PACKAGES, describe_machine, package_versions, usable_cores
    from kdx.runtime.tiled import for_frames
    from kdx.verification.backend_choice import backend_precision_pairs
    from kdx.workflows.report.page import Timing

    count = threads or usable_cores()
    failed: dict[str, str] = {}
    with ExitStack() as held:
        candidates, precisions = [], []
        for info, precision in backend_precision_pairs(bundle):
            try:
                backend = held.enter_context(info.open(bundle.graph_of(precision), count, precision))
                candidates.append(for_frames(backend, bundle.manifest))
                precisions.append(precision)
            except BackendError as error:
                failed[f"{info.name}, {precision}"] = error.message
        found = time_backends(
            candidates,
            bundle.camera_images(),
            precisions=precisions,
            batches=(1,),
            runs=_RUNS,
            warm_up=_WARM_UP,
            progress=progress,
        )
    return Timing(describe_machine(count, package_versions(RUNTIME_PACKAGES)), found, failed)


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
    out.print(f"[bold]{escape(str(output))}[/]: {size / 1e6:.1f} MB, pictures of {len(content.pictures)} images")
