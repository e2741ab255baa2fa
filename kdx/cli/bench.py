"""``kdx bench``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from kdx.cli.output import also_written, make_table, out, print_json, progress_for
from kdx.cli.shared_options import FORCE_OPTION, JSON_OPTION, batch_sizes, require_effect
from kdx.errors import OptionError
from kdx.text import number_of_threads


def bench(
    bundle: Path = typer.Argument(help="Bundle to time."),
    baseline: Path | None = typer.Option(None, "--baseline", help="The run it was exported from: adds eager PyTorch."),
    batch: str | None = typer.Option(None, help="Batch sizes. Default: 1, and 8 where the bundle takes it."),
    runs: int | None = typer.Option(
        None,
        help="Counted calls of each candidate at batch 1; larger batches take fewer, at least 100. Default: 200; "
        "with --profile 100; with a budget as many as the percentile needs, at least 1000.",
    ),
    warm_up: int = typer.Option(20, min=1, help="Calls of each candidate that are not counted, before the others."),
    budget_ms: float | None = typer.Option(
        None, help="Check one backend against this cycle time, from array to verdict; exit status 1 when it is missed."
    ),
    profile: bool = typer.Option(False, "--profile", help="Say instead where each backend spends its time, by stage."),
    percentile: float | None = typer.Option(
        None, help="With --budget-ms: share of the calls, in percent, that must keep the budget. Default: 99.9."
    ),
    backend: str = typer.Option("auto", help="The backend that must keep the budget."),
    threads: int | None = typer.Option(
        None, min=1, max=1024, help="Threads of each backend. Default: the cores of this machine."
    ),
    output: Path | None = typer.Option(None, "--output", help="Also write the result to this JSON file."),
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Measure latency, end to end from the uint8 array to map and score.

    Backends take turns in one process, on the bundle's golden images, with the same number of
    threads. The baseline is what people run today: eager PyTorch FP32, normalisation, F.normalize,
    F.interpolate and scipy's Gaussian filter apart. With --budget-ms, one backend is checked
    against a cycle time instead.
    """
    from kdx.bundle.open import open_bundle
    from kdx.loading.load import require_new_file
    from kdx.runtime.machine import usable_cores
    from kdx.workflows.bench import measure_budget, measure_latency, measure_stages

    require_new_file(output, "output", force=force)
    require_effect({"--force": force and output is None}, "--output")
    if budget_ms is None:
        require_effect({"--percentile": percentile is not None, "--backend": backend != "auto"}, "--budget-ms")
    asked = {"--budget-ms": budget_ms is not None, "--profile": profile, "--baseline": baseline is not None}
    kinds = [name for name, is_given in asked.items() if is_given]
    if len(kinds) > 1:
        raise OptionError(f"{' and '.join(kinds)} exclude each other", fix="call once for each")
    if batch is not None and (profile or budget_ms is not None):
        raise OptionError(
            f"--batch and {kinds[0]} exclude each other: that is of single images", fix="leave out --batch"
        )
    opened = open_bundle(bundle)
    count, progress = threads or usable_cores(), progress_for(json)
    if budget_ms is not None:
        share = 99.9 if percentile is None else percentile
        record = measure_budget(
            opened, backend, count, budget_ms=budget_ms, percentile=share, runs=runs, warm_up=warm_up, progress=progress
        )
        _report(record, output, _show_contract, json=json)
        if not record["contract"].is_met:
            raise typer.Exit(1)
    elif profile:
        _report(measure_stages(opened, count, 100 if runs is None else runs, warm_up), output, _show_stages, json=json)
    else:
        largest = 1 if opened.manifest.tiling else opened.manifest.max_batch
        batches = batch_sizes(("1,8" if largest >= 8 else "1") if batch is None else batch, largest)
        record = measure_latency(
            opened,
            count,
            baseline=baseline,
            batches=batches,
            runs=200 if runs is None else runs,
            warm_up=warm_up,
            progress=progress,
        )
        _report(record, output, _show, json=json)


def _report(record: dict[str, Any], output: Path | None, show: Callable[[dict[str, Any]], None], *, json: bool) -> None:
    with also_written(output, record):
        if json:
            print_json(record)
        else:
            show(record)
            for each in record.get("not_timed", ()):
                out.print(f"[yellow]not timed[/]: {escape(str(each))}")


def _show_stages(record: dict[str, Any]) -> None:
    threads, tiles = number_of_threads(record["machine"].threads), record["tiles"]
    unit = "image" if tiles is None else f"tile (a frame has {tiles})"
    table = make_table(
        f"{record['bundle']}: milliseconds for one {unit} and share of it, {threads}",
        *("backend", "input", "networks", "tail", "layout", "total"),
    )
    for stages in record["stages"]:
        parts = (stages.input_ms, stages.networks_ms, stages.tail_ms, stages.layout_ms)
        shares = (f"{part:.2f} ({100 * part / stages.total_ms:.1f} %)" for part in parts)
        table.add_row(stages.backend, *shares, f"{stages.total_ms:.2f}")
    out.print(table)
    for stages in record["stages"]:
        slowest = ", ".join(f"{name} {value:.2f}" for name, value in stages.slowest)
        out.print(f"{stages.backend}, slowest: {slowest}")
    out.print("by the runtimes' own profilers, which slow a call down; layout: what a runtime adds between nodes")


def _show_contract(record: dict[str, Any]) -> None:
    contract, machine = record["contract"], record["machine"]
    verdict = "[green]kept[/]" if contract.is_met else "[bold red]MISSED[/]"
    out.print(
        f"{record['bundle']}, {contract.backend}: budget of {contract.budget_ms:g} ms {verdict}: "
        f"p{contract.percentile:g} {contract.measured_ms:.2f} ms, p50 {contract.p50_ms:.2f}, "
        f"max {contract.max_ms:.2f}; {contract.late} of {contract.runs} calls were late"
    )
    threads = number_of_threads(machine.threads)
    out.print(f"from the uint8 array to the verdict, one image a call; {machine.cpu}, {threads}")


def _show(record: dict[str, Any]) -> None:
    machine = record["machine"]
    title = f"{record['bundle']}: {record['method']}, {record['backbone']}, {record['input']}"
    table = make_table(title, "backend", "graph", "batch", "p50 ms", "p95", "p99", "max", "images/s", "speed-up")
    for r in record["results"]:
        ratio = "–" if r.speed_up is None else f"{r.speed_up:.2f}×"
        times = (f"{value:.2f}" for value in (r.p50_ms, r.p95_ms, r.p99_ms, r.max_ms))
        table.add_row(r.name, r.precision, str(r.batch), *times, f"{r.images_per_second:.0f}", ratio)
    out.print(table)
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    runs = ", ".join(f"{n} runs at batch {batch}" for batch, n in {r.batch: r.runs for r in record["results"]}.items())
    after = f"after {record['results'][0].warm_up} warm-ups"
    out.print(f"{machine.cpu}, {number_of_threads(machine.threads)}; {runs}, {after}; {versions}")
