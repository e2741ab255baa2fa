"""A bundle in words: where it comes from, what it takes and returns, and at what it decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from kdx.bundle.bundle import Bundle
from kdx.bundle.index import read_index
from kdx.bundle.manifest import Int8Students, Manifest, Provenance
from kdx.bundle.signature import read_seal
from kdx.bundle.variants import OWN_THRESHOLD
from kdx.calibration.described import describe
from kdx.decision.roi import roi_of
from kdx.imaging.tiling import Tiling
from kdx.text import agreeing, number_of


def signature_of(bundle: Bundle) -> dict[str, Any] | None:
    """Return who signed a bundle, and whether a key has verified it; None without a signature."""
    seal = bundle.seal or read_seal(bundle.path, read_index(bundle.path))
    if seal is None:
        return None
    return {
        "key_sha256": seal.key_sha256,
        "statement": seal.statement,
        "is_of_this_index": True,  # a bundle of another index is not opened
        "is_verified": bundle.seal is not None,
    }


def describe_bundle(bundle: Bundle, signature: dict[str, Any] | None) -> dict[str, str]:
    """Return what a bundle is, a line for each of its properties.

    Args:
        bundle: The bundle.
        signature: What :func:`signature_of` returned.

    Raises:
        BundleError: The stored region of interest is invalid.
    """
    manifest, trained, roi = bundle.manifest, bundle.training_images(), roi_of(bundle)
    source = manifest.provenance
    compared = source.teacher_comparisons
    of_planned = "" if source.planned_epochs is None else f"of {source.planned_epochs} "
    epochs = number_of(source.epoch, of_planned + agreeing(source.planned_epochs or source.epoch, "[epoch|epochs]"))
    included = None if roi is None else roi.included.mean()
    return {
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
        "region": _region(manifest) if included is None else f"{100 * included:.3g} % of the image counts",
        **({} if manifest.level_sha256 is None else {"level": _level(manifest)}),
        "threshold": describe(manifest.threshold),
        **_own_thresholds(manifest),
        "signed": _signed(signature),
        "golden": number_of(len(manifest.golden), "[image|images]"),
        "trained": f"{epochs}{_cycles(source)} on {_images(len(trained), source)}, data {source.data_sha256[:12]}"
        + ("" if trained.knows_pixels else "; known by their files alone, not as copies in another format"),
        "exported": f"{source.created}, checkpoint {source.checkpoint_sha256[:12]}, "
        + ", ".join(f"{name} {value}" for name, value in source.exported_with.items()),
    }


def _cycles(source: Provenance) -> str:
    return f", in cycles of {' + '.join(map(str, source.cycles))}," if source.cycles else ""


def _images(known: int, source: Provenance) -> str:
    """Return how many images the run was trained on, and how many only the run before it."""
    own = number_of(known - source.earlier_images, "[image|images]")
    if not source.earlier_images:
        return own
    return f"{own} (started from students that were trained on {source.earlier_images} others)"


def _region(manifest: Manifest) -> str:
    """Return what counts without a region of interest."""
    crop = manifest.camera.crop
    if crop is msgspec.UNSET:
        return "none: whole images count"
    return f"none: the whole window {','.join(map(str, crop))} counts"


def _signed(signature: dict[str, Any] | None) -> str:
    if signature is None:
        return "no: only a signature protects bundle.json, which holds the threshold (kdx sign)"
    checked = "verified" if signature["is_verified"] else "not verified: --require-signature NAME.pub"
    engines = len({Path(name).parent for name in signature["statement"].engines})
    covered = f", with {engines} engine{'s' if engines > 1 else ''}" if engines else ""
    return f"by {signature['key_sha256']}, {signature['statement'].created}{covered} ({checked})"


def _border(weights: list[tuple[float, ...]]) -> str:
    return (
        f"the map that makes the score is weighted by {min(map(min, filter(None, weights))):.2g} to 1 near the border"
    )


def _int8_students(students: Int8Students) -> str:
    epochs = number_of(students.epoch, "[epoch|epochs]")
    times = "" if students.headroom == 1 else f"{students.headroom:g} times "
    return (
        f"trained as INT8 networks for {epochs}, values clipped at {times}their limit on training "
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
    fitted = f", fitted on {number_of(fit.images, 'other good [image|images]')}" if fit else ""
    return f"maps are divided by how hot good parts get at each place{fitted}"


def _own_thresholds(manifest: Manifest) -> dict[str, str]:
    """Return at what BF16 and INT8 are decided, and by which runtimes that was measured."""
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
