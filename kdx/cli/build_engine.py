"""``kdx build-engine``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from kdx.bundle.engine_record import FLAVOURS, Engine, describe
from kdx.cli.output import out, print_json, report_remarks, say, say_nothing, shown, typed
from kdx.cli.shared_options import FORCE_OPTION, JSON_OPTION, batch_sizes, one_of
from kdx.errors import OptionError
from kdx.remarks import Remark

if TYPE_CHECKING:
    from kd_export.engine.build import BuildPlan


def build_engine(
    bundle: Path = typer.Argument(help="Bundle to build for; the engine is added to its folder."),
    fp16: bool = typer.Option(False, "--fp16", help="From the FP16 graph (kdx export --precision fp32,fp16)."),
    int8: bool = typer.Option(False, "--int8", help="From the INT8 graph (kdx export --precision fp32,int8)."),
    batch: str = typer.Option("1", help="Batch sizes, e.g. 1,8: each gets its own tuning and accepts 1 up to it."),
    flavour: str = typer.Option("tensorrt", help="tensorrt, or rtx: TensorRT for RTX, which needs no GPU to build."),
    compute_capability: str | None = typer.Option(
        None,
        metavar="X.Y",
        help="Compute capability of the line PC's card, for rtx: 8.6, 8.9, 12.0, ... Default: this machine's GPU.",
    ),
    level: int = typer.Option(3, help="Builder optimisation level, 0 to 5; 5 builds longest."),
    timing_cache: Path | None = typer.Option(None, help="File of kernel timings to use and to update."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be built and whether this machine can."),
    force: bool = FORCE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Build a TensorRT engine of one of a bundle's graphs, and prove the precision of its layers.

    Writes engines/NAME/model.plan, a plain plan that trtexec and C++ read, and engine.json beside
    it: what it was built for, every layer's precision, hashes. A plan for another GPU, TensorRT or
    graph is refused when it is loaded. Engines of several precisions can lie in one bundle.
    """
    from kd_export.engine.build import EngineRequest, plan_build
    from kd_export.engine.build import build_engine as build
    from kdx.bundle.open import open_bundle

    opened = open_bundle(bundle)
    if fp16 and int8:
        raise OptionError("an engine has one precision", expected="--fp16 or --int8", fix="build one after the other")
    request = EngineRequest(
        flavour=one_of("--flavour", flavour, FLAVOURS),
        precision="fp16" if fp16 else "int8" if int8 else "fp32",
        batches=tuple(batch_sizes(batch, opened.manifest.max_batch)),
        level=level,
        compute_capability=compute_capability,
        timing_cache=timing_cache,
    )
    if dry_run:
        plan, _ = plan_build(opened, request)
        _show_plan(plan, json=json)
        return
    remarks: list[Remark] = []
    announce = say_nothing if json else say
    engine = build(opened, request, force=force, announce=announce, note=remarks.append)
    if json:
        print_json({"engine": str(engine.path), "record": engine.record, "remarks": remarks})
        return
    _show(bundle, engine)
    report_remarks(remarks)


def _show_plan(plan: BuildPlan, *, json: bool) -> None:
    from kdx.workflows.build_engine import record_of, what_is_there

    request, there = plan.request, what_is_there(plan)
    if json:
        print_json(record_of(plan))
        return
    out.print(f"this machine can build [bold]{plan.target}[/]")
    out.print(f"  from {plan.graph.path.name}, {request.precision}, for {describe(plan.fingerprint)}")
    out.print(f"  batches {', '.join(map(str, request.batches))}, level {request.level}; there now: {there}")


def _show(bundle: Path, engine: Engine) -> None:
    from kd_export.engine.layers import describe_layers

    record: Any = engine.record
    size_mb = engine.plan.stat().st_size / 1e6
    out.print(f"[bold]{shown(engine.path)}[/]: {size_mb:.1f} MB plan in {record.build_seconds:.1f} s")
    out.print(f"  for {describe(record.fingerprint)}; batches {', '.join(map(str, record.batches))}")
    out.print(f"  {escape(describe_layers(record))}")
    backend = "tensorrt-rtx" if record.fingerprint.flavour == "rtx" else "tensorrt"
    out.print(f"next, on that machine: kdx verify {typed(bundle)} --backend {backend}")
