"""The page of a bundle and a folder of images, from the folder to the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd_train.datasets import open_data
from kdx.bundle.open import open_bundle
from kdx.folders.data_folder import FolderOptions
from kdx.progress import Progress
from kdx.storage.files import remove_leftovers, write_atomic
from kdx.workflows.report.gather import ReportRequest, gather_content, require_writable_page
from kdx.workflows.report.page import Content, notes_of, render_page


def write_report(
    bundle: Path,
    data: Path,
    output: Path,
    request: ReportRequest,
    *,
    category: str | None,
    options: FolderOptions,
    force: bool,
    progress: Progress,
) -> tuple[Content, int]:
    """Score the images of a folder, and write the page.

    Args:
        bundle: The bundle.
        data: A folder in MVTec layout, a published data set, or a folder of good images.
        output: The page to write.
        request: How the images are scored and timed.
        category: Category of a data set that has several.
        options: Which of the folder's images are good.
        force: Replace the page if it exists.
        progress: Shows the images.

    Returns:
        What the page shows, and its size in bytes.

    Raises:
        OutputError: The page exists, or is a folder.
        KdxError: The bundle, the images, the backend or the precision are not usable.
    """
    require_writable_page(output, force=force)
    opened = open_bundle(bundle)
    folder = open_data(data, category, options, progress=progress)
    content = gather_content(opened, data, folder, category, options, request, progress)
    page = render_page(content)
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(output)
    write_atomic(output, page)
    return content, len(page)


def record_of(content: Content, output: Path, size: int) -> dict[str, Any]:
    """Return what a page shows as ``kdx report --json`` prints it.

    Args:
        content: What the page shows.
        output: The page.
        size: Its size in bytes.
    """
    return {
        "bundle": str(content.bundle.path),
        "report": str(output),
        "bytes": size,
        "images_found": content.material.found,
        "sampled": content.material.is_sampled,
        "passed_over_trained_on": content.material.trained_on,
        "pictures": len(content.pictures),
        "evaluation": content.result,
        "certificate": content.certificate,
        "latency": content.timing.latencies if content.timing else None,
        "notes": notes_of(content),
        "remarks": content.material.remarks,
    }
