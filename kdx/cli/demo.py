"""``kdx demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from kdx.cli.output import make_table, out, print_json, progress_for, say_nothing, shown, typed
from kdx.cli.shared_options import JSON_OPTION
from kdx.cli.verdict_table import show_verdicts
from kdx.errors import OptionError


def demo(
    folder: Path = typer.Option(Path("demo"), "--out", "-o", help="Folder to write."),
    full: bool = typer.Option(False, "--full", help="Train properly: larger images, more epochs (about half an hour)."),
    smallest: bool = typer.Option(
        False, "--smallest", help="Run every step as small as it goes; the detector is no good."
    ),
    seed: int = typer.Option(0, min=0, max=2**32 - 1, help="Seed of everything random."),
    force: bool = typer.Option(True, "--force/--no-force", help="Replace an earlier demo."),
    json: bool = JSON_OPTION,
) -> None:
    """The whole road on real images: solar cells to verdicts, in at most five minutes on two cores.

    Trains STPM on good mono-crystalline cells (ELPV), exports, calibrates, evaluates on other good
    and defective cells, verifies, times against eager PyTorch, and draws heat maps. Nothing is
    downloaded.
    """
    from kdx.workflows.demo import BUNDLE, FULL, QUICK, SMALLEST, Demo, begin

    if full and smallest:
        raise OptionError("--full and --smallest exclude each other")
    begin(folder, force=force)
    size = FULL if full else SMALLEST if smallest else QUICK
    report = Demo(folder, size, seed, progress_for(json), say_nothing if json else out.print).run()
    if json:
        print_json(report)
    else:
        _show(report, folder, folder / BUNDLE)


def _show(report: dict[str, Any], folder: Path, bundle: Path) -> None:
    table = make_table("", "backend", "p50 ms", "p99 ms", "speed-up")
    for r in report["bench"]["results"]:
        table.add_row(r.name, f"{r.p50_ms:.2f}", f"{r.p99_ms:.2f}", f"{r.speed_up:.2f}×")
    out.print(table)
    out.print("[bold]8 predict[/]   some cells of the test split:")
    show_verdicts(report["predict"])
    out.print(
        f"[bold]{shown(folder)}/[/]: {bundle.name}, overlays/ (heat maps), report.json, data/, run/ "
        f"({report['seconds']['total']:.0f} s)"
    )
    out.print(f"next: kdx predict {typed(bundle)} YOUR_IMAGES, or kdx train YOUR_FOLDER --out runs/mine")
