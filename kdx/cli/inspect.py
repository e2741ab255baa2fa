"""``kdx inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kdx.bundle.engine_record import describe, engines_of
from kdx.bundle.variants import FP16_MAX, OWN_THRESHOLD, Variant
from kdx.cli.output import make_table, out, print_json, report_remarks, shown
from kdx.cli.shared_options import JSON_OPTION, REQUIRE_SIGNATURE_OPTION
from kdx.text import agreeing, number, number_of

if TYPE_CHECKING:
    from kdx.bundle.bundle import Bundle
    from kdx.bundle.manifest import Int8Students, Manifest
    from kdx.imaging.tiling import Tiling


def inspect(
    bundle: Path = typer.Argument(help="Bundle to look into."),
    require_signature: list[Path] = REQUIRE_SIGNATURE_OPTION,
    json: bool = JSON_OPTION,
) -> None:
    """Say what is in a bundle, and check every hash on the way."""
    from kdx.bundle.open import open_bundle
    from kdx.decision.roi import roi_of, why_stale

    opened = open_bundle(bundle, require_signature=require_signature or None)
    manifest, roi = opened.manifest, roi_of(opened)
    signature = _signature(opened)
    engines = list(engines_of(bundle))
    if json:
        records = {engine.path.name: engine.record for engine in engines}
        print_json(
            {
                "bundle": str(bundle),
                "manifest": manifest,
                "engines": records,
                "signature": signature,
                "changed_after_calibration": manifest.changed_since(),
            }
        )
        return
    from rich.table import Table

    source = manifest.provenance
    compared, trained = source.teacher_comparisons, opened.training_images()
    of_planned = "" if source.planned_epochs is None else f"of {source.planned_epochs} "
    epochs = number_of(source.epoch, of_planned + agreeing(source.planned_epochs or source.epoch, "[epoch|epochs]"))
    rows = {
        "method": f"{manifest.method}: {manifest.pair.describe() if manifest.pair else 'of an unknown declaration'}",
        "teacher": f"{source.backbone}, weights: {source.weights}",
        **({"compared": "; ".join(each.describe() for each in compared)} if compared else {}),
        **({"border": _border(source.border_weights)} if source.border_weights else {}),
        **({"INT8 students": _int8_students(source.int8)} if source.int8 else {}),
        "takes": f"{manifest.camera.describe()}"
        + ("" if manifest.input.fixed_size else "; files of any size are resized"),
        **({} if manifest.tiling is None else {"tiles": _tiles(manifest, manifest.tiling)}),
        "returns": f"anomaly_map {' × '.join(map(str, manifest.camera_map_size))}"
        + ("" if manifest.field_of_view == 1 else f" of the central {100 * manifest.field_of_view:g} % of each side")
        + f", anomaly_score; batch up to {manifest.max_batch}",
        "region": "none: whole images count"
        if roi is None
        else f"{100 * roi.included.mean():.3g} % of the image counts",
        **({} if manifest.level_sha256 is None else {"level": _level(manifest)}),
        "threshold": _threshold(manifest),
        **_own_thresholds(manifest),
        "signed": _in_words(signature),
        "golden": number_of(len(manifest.golden), "[image|images]"),
        "trained": f"{epochs} on {number_of(len(trained), '[image|images]')}, data {source.data_sha256[:12]}"
        + ("" if trained.knows_pixels else "; known by their files alone, not as copies in another format"),
        "exported": f"{source.created}, checkpoint {source.checkpoint_sha256[:12]}, "
        + ", ".join(f"{name} {value}" for name, value in source.exported_with.items()),
    }
    table = Table(
        title=f"{shown(bundle)} (schema {manifest.schema}, all {len(manifest.files)} hashes right)",
        title_justify="left",
        show_header=False,
    )
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", value)
    out.print(table)
    report_remarks(source.remarks())
    stale = why_stale(manifest)
    if stale:
        out.print(f"[bold red]{stale}[/]")
    for name, variant in manifest.variants.items():
        _show_ranges(name, variant)
    for engine in engines:
        record = engine.record
        batches = ", ".join(map(str, record.batches))
        stale = "" if record.onnx_sha256 in manifest.files.values() else "; stale: built from another graph"
        out.print(f"engine {engine.path.name}: {describe(record.fingerprint)}; batches {batches}{stale}")
    files = make_table("files", "file", "kB", "sha256", left=("sha256",))
    for name, digest in manifest.files.items():
        files.add_row(name, f"{(bundle / name).stat().st_size / 1e3:.1f}", digest[:16])
    out.print(files)


def _signature(bundle: Bundle) -> dict[str, Any] | None:
    """Return who signed a bundle, and whether a key has verified it."""
    from kdx.bundle.index import read_index
    from kdx.bundle.signature import read_seal

    seal = bundle.seal or read_seal(bundle.path, read_index(bundle.path))
    if seal is None:
        return None
    return {
        "key_sha256": seal.key_sha256,
        "statement": seal.statement,
        "is_of_this_index": True,  # a bundle of another index is not opened
        "is_verified": bundle.seal is not None,
    }


def _in_words(signature: dict[str, Any] | None) -> str:
    if signature is None:
        return "no: only a signature protects bundle.json, which holds the threshold (kdx sign)"
    checked = "verified" if signature["is_verified"] else "not verified: --require-signature NAME.pub"
    engines = len({Path(name).parent for name in signature["statement"].engines})
    covered = f", with {engines} engine{'s' if engines > 1 else ''}" if engines else ""
    return f"by {signature['key_sha256']}, {signature['statement'].created}{covered} ({checked})"


def _show_ranges(precision: str, variant: Variant) -> None:
    """Show how far the features are from what FP16 can hold, and what was kept out of it."""
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
    for judged in variant.judged:
        out.print(
            f"  {judged.runtime}: golden scores within {judged.score_max:.0%} of FP32, {judged.flips} of "
            f"{judged.compared} clear pairs turned"
        )
        out.print(f"    {judged.describe() or 'its gate saw no verdicts on held-out images'}")
    for node in variant.kept:
        out.print(f"  kept in FP32: {node.node}: {node.reason}")


def _border(weights: list[tuple[float, ...]]) -> str:
    return (
        f"the map that makes the score is weighted by {min(map(min, filter(None, weights))):.2g} to 1 near the border"
    )


def _int8_students(students: Int8Students) -> str:
    epochs = number_of(students.epoch, "[epoch|epochs]")
    return (
        f"trained as INT8 networks for {epochs}, values clipped at {students.headroom:g} times the largest of training "
        f"images; compared with the fake-quantised PyTorch module; checkpoint {students.checkpoint_sha256[:12]}, "
        f"teacher {students.teacher_sha256[:12]}"
    )


def _tiles(manifest: Manifest, tiling: Tiling) -> str:
    tile = manifest.input
    return (
        f"{tiling.count} of {tile.height} × {tile.width}, overlapping by {tiling.overlap} pixels and more, "
        f"{tiling.batch} at once; maps are off by up to {100 * tiling.seam:.1f} % where they meet"
    )


def _level(manifest: Manifest) -> str:
    fit = manifest.threshold.level if manifest.threshold else None
    fitted = f", fitted on {fit.images} other good images" if fit else ""
    return f"maps are divided by how hot good parts get at each place{fitted}"


def _own_thresholds(manifest: Manifest) -> dict[str, str]:
    """Say at what BF16 and INT8 are decided, and by which runtimes that was measured."""
    rows = {}
    for precision in manifest.precisions:
        if precision not in OWN_THRESHOLD or manifest.threshold is None:
            continue
        found = manifest.own_thresholds(precision)
        said = ", ".join(f"{each.score:.6g} in {runtime}" for runtime, each in found.items()) or "none: no verdict"
        if not manifest.is_runtime_known(precision):
            said += "; which of them measured it was not recorded: calibrate again"
        rows[f"threshold of {precision}"] = said
    return rows


def _threshold(manifest) -> str:  # type: ignore[no-untyped-def]
    threshold = manifest.threshold
    if threshold is None:
        return "none: calibrate with kdx calibrate BUNDLE DATA"
    if threshold.defects is not None:
        chosen = threshold.defects
        return (
            f"{threshold.score:.6g}, chosen on defects: misses {chosen.misses} of {chosen.images} defective images, "
            f"rejects {chosen.false_rejects} of {threshold.images} good ones, {threshold.created}"
        )
    low, high = threshold.interval
    rate = f"{100 * threshold.false_reject_rate:g} % false rejects"
    return (
        f"{threshold.score:.6g} ({number(low)} to {number(high)}) for {rate}, {threshold.images} good images, "
        f"{threshold.created}"
    )
