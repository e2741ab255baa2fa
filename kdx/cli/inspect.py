"""``kdx inspect``."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.markup import escape

from kdx.bundle.engine_record import describe, engines_of
from kdx.bundle.variants import FP16_MAX, Variant
from kdx.cli.output import make_table, out, print_json, report_remarks, shown
from kdx.cli.shared_options import JSON_OPTION, REQUIRE_SIGNATURE_OPTION
from kdx.text import number


def inspect(
    bundle: Path = typer.Argument(help="Bundle to look into."),
    require_signature: list[Path] = REQUIRE_SIGNATURE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Say what is in a bundle, and check every hash on the way."""
    from kdx.bundle.open import open_bundle
    from kdx.decision.roi import why_stale
    from kdx.workflows.inspect import describe_bundle, signature_of

    opened = open_bundle(bundle, require_signature=require_signature or None)
    manifest, signature = opened.manifest, signature_of(opened)
    engines, rows = list(engines_of(bundle)), describe_bundle(opened, signature)
    if json:
        print_json(
            {
                "bundle": str(bundle),
                "manifest": manifest,
                "engines": {engine.path.name: engine.record for engine in engines},
                "signature": signature,
                "changed_after_calibration": manifest.changed_since(),
            }
        )
        return
    from rich.table import Table

    table = Table(
        title=f"{shown(bundle)} (schema {manifest.schema}, all {len(manifest.files)} hashes right)",
        title_justify="left",
        show_header=False,
    )
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", escape(value))
    out.print(table)
    report_remarks(manifest.provenance.remarks())
    stale = why_stale(manifest)
    if stale:
        out.print(f"[bold red]{stale}[/]")
    for name, variant in manifest.variants.items():
        _show_ranges(name, variant, own_reference=manifest.is_own_reference(name))
    for engine in engines:
        record = engine.record
        batches = ", ".join(map(str, record.batches))
        stale = "" if record.onnx_sha256 in manifest.files.values() else "; stale: built from another graph"
        out.print(f"engine {engine.path.name}: {describe(record.fingerprint)}; batches {batches}{stale}")
    files = make_table("files", "file", "kB", "sha256", left=("sha256",))
    for name, digest in manifest.files.items():
        files.add_row(name, f"{(bundle / name).stat().st_size / 1e3:.1f}", digest[:16])
    out.print(files)


def _show_ranges(precision: str, variant: Variant, *, own_reference: bool) -> None:
    """Show how far the features are from what FP16 can hold, and what was kept out of it.

    Args:
        precision: The precision of the graph.
        variant: The graph.
        own_reference: Whether something else than FP32 is the reference of its scores.
    """
    title = f"{precision}: {variant.convolutions} convolutions"
    if variant.ranges is None:
        out.print(title)
    else:
        ranges = variant.ranges
        headings = ("tap", "teacher", "student", "headroom")
        table = make_table(f"{title}; largest absolute values on the golden images", *headings)
        for tap in ranges.taps:
            table.add_row(tap.tap, number(tap.teacher), number(tap.student), f"{number(tap.headroom)}×")
        out.print(table)
        out.print(f"largest of all: {number(ranges.largest_value)} at {ranges.largest}; FP16 ends at {FP16_MAX:g}")
    what = "likeness to FP32, which is not the reference of these students: " if own_reference else ""
    for judged in variant.judged:
        out.print(
            f"  {judged.runtime}: {what}golden scores within {judged.score_max:.0%} of FP32, {judged.flips} of "
            f"{judged.compared} clear pairs turned"
        )
        out.print(f"    {judged.describe() or 'its gate saw no verdicts on held-out images'}")
    for node in variant.kept:
        out.print(f"  kept in FP32: {node.node}: {node.reason}")
