"""``kdx predict``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from kdx.cli.common import (
    FORCE_OPTION,
    MAX_BAD_OPTION,
    THREADS_OPTION,
    command,
    err,
    make_table,
    out,
    print_json_line,
    progress_for,
    report_bad,
)
from kdx.progress import SILENT, Progress, track


@command(json_lines=True)
def predict(
    bundle: Path = typer.Argument(help="Bundle (or run folder)."),
    images: list[Path] = typer.Argument(help="Image files, or folders of them."),
    overlay: Path | None = typer.Option(None, "--overlay", help="Folder for heat maps (PNG)."),
    backend: str = typer.Option("auto", help="Backend to run on."),
    threads: int | None = THREADS_OPTION,
    max_bad_images: int = MAX_BAD_OPTION,
    force: bool = FORCE_OPTION,
    json: bool = typer.Option(False, "--json", help="Print JSON Lines: one object per image."),
) -> None:
    """Judge images: verdict, score, and margin to the threshold.

    The margin is score / threshold - 1: below zero is good. Heat maps are scaled by the map value that hardly any good
    image reaches, and outlined at it.
    """
    bad: dict[str, str] = {}
    records: list[dict[str, Any]] = []
    try:
        judge(
            bundle,
            _expand(images),
            records,
            bad,
            overlay=overlay,
            backend=backend,
            threads=threads,
            max_bad_images=max_bad_images,
            force=force,
            progress=progress_for(json),
            each=print_json_line if json else None,
        )
    finally:
        # Verdicts that were reached before a damaged image or Ctrl-C are shown all the same.
        if not json and records:
            show(records)
            report_bad(bad)
    if overlay is not None and not json:
        out.print(f"heat maps in {overlay}/")


def judge(
    bundle: Path,
    paths: list[Path],
    records: list[dict[str, Any]],
    bad: dict[str, str],
    *,
    overlay: Path | None = None,
    backend: str = "auto",
    threads: int | None = None,
    max_bad_images: int = 0,
    force: bool = False,
    progress: Progress = SILENT,
    each: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Judge image files one by one; add a record of each to ``records``, of those passed over a reason to ``bad``."""
    from kdx.errors import ImageError
    from kdx.images import read_image
    from kdx.loading import load

    names = _overlay_names(paths) if overlay is not None else {}
    with load(bundle, backend, threads) as detector:
        if detector.threshold is None:
            err.print(
                f"[yellow]not calibrated:[/] no verdicts, only scores. Calibrate with kdx calibrate {bundle} DATA"
            )
        if overlay is not None:
            _require_free(overlay, paths, names, force=force)
            overlay.mkdir(parents=True, exist_ok=True)
        for path in track(progress, paths, "judging", len(paths)):
            try:
                image = read_image(path, detector.input)
            except ImageError as error:
                bad[str(path)] = error.message
                if len(bad) > max_bad_images:
                    raise
                if each is not None:
                    each({"image": str(path), "error": error.as_dict()})
                continue
            verdict = detector(image)
            record: dict[str, Any] = {
                "image": str(path),
                "verdict": verdict.decision.value,
                "score": verdict.score,
                "threshold": verdict.threshold,
                "margin": verdict.margin,
            }
            if overlay is not None:
                record["overlay"] = str(overlay / names[path])
                _write_overlay(overlay / names[path], image, verdict, path.name, detector)
            if each is not None:
                each(record)
            records.append(record)


def _expand(images: list[Path]) -> list[Path]:
    from kdx.errors import DataError
    from kdx.folder import image_files

    paths: list[Path] = []
    for image in images:
        found = list(image_files(image)) if image.is_dir() else [image]
        if not found:
            raise DataError(f"no images were found in '{image}'", expected="png, jpg, bmp or tif files")
        paths += found
    return list(dict.fromkeys(paths))


def _overlay_names(paths: list[Path]) -> dict[Path, str]:
    """Name each heat map after its image; images of one name in several folders keep their folder's name too."""
    stems = Counter(path.stem for path in paths)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = path.stem if stems[path.stem] == 1 else f"{path.parent.name}-{path.name}"
        while name in taken:
            name += "_"
        taken.add(name)
        names[path] = f"{name}.png"
    return names


def _require_free(overlay: Path, paths: list[Path], names: dict[Path, str], *, force: bool) -> None:
    """Refuse to replace the images themselves, and anything else unless it may be."""
    from kdx.errors import OutputError
    from kdx.files import refuse_existing

    inputs = {path.resolve() for path in paths}
    for path in paths:
        target = overlay / names[path]
        if target.resolve() in inputs:
            raise OutputError(
                f"the heat map of '{path}' would replace an image", fix="choose another folder for --overlay"
            )
        refuse_existing(target, force=force)


def _write_overlay(target: Path, image: Any, verdict: Any, name: str, detector: Any) -> None:
    import io

    from kdx.files import write_atomic
    from kdx.overlay import render_overlay

    buffer = io.BytesIO()
    bgr = detector.input.channel_order == "bgr" and image.shape[2] == 3
    rgb = image[..., ::-1] if bgr else image
    render_overlay(rgb, verdict, name, detector.field_of_view).save(buffer, format="PNG")
    write_atomic(target, buffer.getvalue())


def show(records: list[dict[str, Any]]) -> None:
    """Print a table of verdicts."""
    colours = {"good": "green", "defective": "bold red", "undecided": "yellow"}
    table = make_table("", "verdict", "image", "score", "threshold", "margin", left=("image",))
    for r in records:
        threshold = "–" if r["threshold"] is None else f"{r['threshold']:.4g}"
        margin = "–" if r["margin"] is None else f"{r['margin']:+.1%}"
        verdict = f"[{colours[r['verdict']]}]{r['verdict']}[/]"
        table.add_row(verdict, escape(r["image"]), f"{r['score']:.4g}", threshold, margin)
    out.print(table)
