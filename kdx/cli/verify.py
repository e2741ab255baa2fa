"""``kdx verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from kdx.bundle.teacher_comparison import worse_teacher
from kdx.cli.output import also_written, make_table, out, print_json, report_remarks
from kdx.cli.shared_options import FORCE_OPTION, JSON_OPTION, REQUIRE_SIGNATURE_OPTION, THREADS_OPTION, require_effect


def verify(
    bundle: Path = typer.Argument(help="Bundle to verify."),
    backend: str = typer.Option("all", help="A backend's name, or all that are installed."),
    threads: int | None = THREADS_OPTION,
    output: Path | None = typer.Option(None, "--output", help="Also write the certificate to this JSON file."),
    require_signature: list[Path] = REQUIRE_SIGNATURE_OPTION,
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Prove that what is deployed decides what was trained.

    Every installed backend runs the bundle's golden images, at batch 1 and a larger batch, and is
    compared with the reference stored at export: scores, maps, values that are not finite, verdicts
    at the threshold. The reference is FP32 PyTorch; students that were trained as INT8 networks
    have another one, the fake-quantised PyTorch module. Exit status 1 if one fails.
    """
    from kdx.bundle.open import open_bundle
    from kdx.bundle.signature import require_signed_engines
    from kdx.loading.load import require_new_file
    from kdx.runtime.backend_table import find_backend, require_backends
    from kdx.verification.certificate import verify as verify_bundle

    require_effect({"--force": force and output is None}, "--output")
    require_new_file(output, "output", force=force)
    opened = open_bundle(bundle, require_signature=require_signature or None)
    backends = require_backends(bundle) if backend == "all" else [find_backend(backend)]
    if any(info.engine for info in backends):
        require_signed_engines(opened)
    certificate = verify_bundle(opened, backends, threads=threads)
    with also_written(output, certificate):
        if json:
            print_json(certificate)
        else:
            _show(certificate)
            if opened.seal is None:
                out.print("not checked: who wrote bundle.json (kdx sign, --require-signature NAME.pub)")
    if not certificate.passed:
        raise typer.Exit(1)


def _show(certificate: Any) -> None:
    headings = ("backend", "graph", "batch", "images", "score", "map", "SQNR dB", "flips", "result")
    table = make_table(f"{certificate.bundle}: against the reference", *headings, left=("graph", "result"))
    for c in certificate.comparisons:
        result = "[green]passed[/]" if c.passed else "[bold red]FAILED[/]"
        if not c.images:
            table.add_row(c.backend, c.precision, *"–––––", "–", result)
            continue
        flips = "–" if c.flips is None else str(c.flips)
        sqnr = "exact" if c.map_sqnr_db is None else f"{c.map_sqnr_db:.0f}"
        figures = (f"{c.score_max:.1e}", f"{c.map_max:.1e}")
        table.add_row(c.backend, c.precision, str(c.batch), str(c.images), *figures, sqnr, flips, result)
    out.print(table)
    for c in certificate.comparisons:
        if c.error:
            out.print(f"{c.backend}, {c.precision}, batch {c.batch}: {escape(c.error)}")
    for precision, allowed in certificate.tolerances.items():
        out.print(
            f"largest differences allowed in {precision}, compared with {certificate.reference_of(precision)}: "
            f"scores {allowed.score:g} relative, maps {allowed.map:g} of their range"
        )
    if certificate.not_compared:
        names = ", ".join(certificate.not_compared)
        out.print(f"[yellow]not compared[/], because no backend here runs them: {names}; verify where they run")
    for precision, judged in certificate.judged.items():
        for each in judged:
            found = each.describe() or f"{each.compared} pairs of golden images and no verdicts"
            out.print(f"{precision} in {each.runtime}, at export: {found}")
    for each in certificate.teacher_comparisons:
        out.print(f"the compact teacher's features, when it was made: {escape(each.describe())}")
    report_remarks(worse_teacher(certificate.teacher_comparisons))
    if certificate.threshold_by_hand is not None:
        out.print(f"threshold {certificate.threshold:.6g}, set by hand: {escape(certificate.threshold_by_hand)}")
    if certificate.threshold is None:
        out.print("no verdicts were compared: the bundle has no threshold yet (kdx calibrate)")
    elif any(each.flips is None and not each.error for each in certificate.comparisons):
        where = "no threshold in that runtime, or golden images are tiles of frames with a level map"
        out.print(f"no verdicts were compared where flips are –: the precision has {where}")
    out.print("[green]passed[/]" if certificate.passed else "[bold red]failed[/]: do not deploy this bundle here")
