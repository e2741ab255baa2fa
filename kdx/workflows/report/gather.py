"""What a report is made of: scores, pictures, the certificate and latencies of one bundle."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdx.progress import Progress

if TYPE_CHECKING:
    from kdx.bundle.bundle import Bundle
    from kdx.folders.data_folder import FolderOptions, ImageFolder
    from kdx.workflows.report.page import BackendLatencies, Content

_RUNS, _WARM_UP = 100, 20
# So many values of maps, float32, and what sorting them takes: about a gigabyte and a half.
_MOST_PIXELS = 1 << 25


@dataclass(frozen=True)
class ReportRequest:
    """How the images of a report are scored and timed.

    Attributes:
        backend: The backend that scores them.
        precision: The precision of the graph.
        threads: Threads within an operation; None for the backend's choice.
        max_images: A sample of so many is scored where there are more.
        max_bad_images: Unreadable images that may be skipped.
        latency: Whether every backend is timed.
    """

    backend: str = "auto"
    precision: str = "fp32"
    threads: int | None = None
    max_images: int = 10_000
    max_bad_images: int = 0
    latency: bool = True


def require_writable_page(output: Path, *, force: bool) -> None:
    """Refuse an output that cannot be written, before minutes of work."""
    from kdx.errors import OutputError
    from kdx.loading.load import require_new_file

    if output.is_dir():
        raise OutputError(
            f"'{output}' is a folder", expected="a file's name", fix=f"e.g. `out={output / 'report.html'}`"
        )
    require_new_file(output, "out", force=force)


def gather_content(
    bundle: Bundle,
    data: Path,
    folder: ImageFolder,
    category: str | None,
    options: FolderOptions,
    request: ReportRequest,
    progress: Progress,
) -> Content:
    """Score the images, and measure and verify everything else that the page shows.

    Raises:
        KdxError: The images, the backend or the precision are not usable.
    """
    from kd_train.data.golden_images import golden_remarks
    from kd_train.evaluation.evaluate import score_images, summarise
    from kdx.imaging.bands import require_whole_frames
    from kdx.loading.bundle_detector import detector_of
    from kdx.runtime.backend_table import require_backends
    from kdx.verification.backend_choice import other_precisions
    from kdx.verification.certificate import verify
    from kdx.workflows.calibration_images import without_chosen_rates
    from kdx.workflows.report.page import Content
    from kdx.workflows.report.pictures import take_pictures
    from kdx.workflows.report.report_images import choose_images, sample

    require_whole_frames(bundle.manifest.camera, "kdx report")
    material = choose_images(bundle, folder, request.max_images, progress)
    height, width = bundle.manifest.camera_map_size
    kept = {image.path for image in sample(material.images, max(1, _MOST_PIXELS // (height * width)))}
    with detector_of(bundle, request.backend, request.threads, request.precision) as detector:
        scored = score_images(
            detector,
            material.images,
            keeps_map=lambda image: image.path in kept,
            max_bad_images=request.max_bad_images,
            unused_masks=folder.unused_masks,
            progress=progress,
        )
        result = summarise(scored, detector, folder.root, progress)
        # A sample may hold fewer of them, and the figures are the sample's.
        remarks = (
            *golden_remarks(bundle, material.images),
            *bundle.manifest.provenance.remarks(),
        )
        result = without_chosen_rates(bundle, material.images, replace(result, remarks=(*result.remarks, *remarks)))
        result = replace(result, remarks=(*result.remarks, *other_precisions(bundle, request.precision)))
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
        certificate=verify(bundle, require_backends(bundle.path), threads=request.threads),
        timing=_time(bundle, request.threads, progress) if request.latency else None,
        detector=detector,
    )


def _time(bundle: Bundle, threads: int | None, progress: Progress) -> BackendLatencies:
    from kdx.errors import BackendError
    from kdx.runtime.latency import time_backends
    from kdx.runtime.machine import usable_cores
    from kdx.runtime.tiled import for_frames
    from kdx.verification.backend_choice import backend_precision_pairs
    from kdx.workflows.bench import this_machine
    from kdx.workflows.report.page import BackendLatencies

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
    return BackendLatencies(this_machine(count), found, failed)
