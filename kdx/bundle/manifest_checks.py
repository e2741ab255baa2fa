"""Checks that the parts of a manifest fit together, beyond what its types say."""

from __future__ import annotations

from pathlib import Path

from msgspec import UNSET

from kdx.bundle.manifest import INDEX, INT8_SCHEMA, SCHEMA, Manifest
from kdx.bundle.threshold_checks import require_calibrated, require_given
from kdx.bundle.variants import OWN_THRESHOLD, graph_file
from kdx.errors import BundleError, KdxError, OptionError


def require_consistent(manifest: Manifest, path: Path) -> None:
    """Check that schema, INT8 students, tiles, frame limits and thresholds fit the graphs.

    Args:
        manifest: The manifest.
        path: The bundle's folder, for messages.

    Raises:
        BundleError: Something does not fit.
    """
    _require_int8_students(manifest, path)
    _require_schema(manifest, path)
    _require_tiling(manifest, path)
    _require_frame_limits(manifest, path)
    _require_thresholds(manifest, path)


def _require_int8_students(manifest: Manifest, path: Path) -> None:
    if manifest.provenance.int8 is None or ("int8" in manifest.variants and manifest.schema >= INT8_SCHEMA):
        return
    raise BundleError(
        f"{INDEX} of '{path}' is not valid: it names the origin of INT8 students",
        expected=f"an INT8 graph, and schema {INT8_SCHEMA}",
        received=f"{' and '.join(manifest.precisions)}, schema {manifest.schema}",
        fix="export the bundle again",
    )


def _require_schema(manifest: Manifest, path: Path) -> None:
    """Require a schema that a kdx refuses which does not know everything in the manifest."""
    needed = manifest.needed_schema
    if needed > SCHEMA and manifest.schema < needed:  # what schema 1 holds, kdx still reads
        raise BundleError(
            f"{INDEX} of '{path}' is not valid: its schema does not hold everything in it",
            expected=f"schema {needed}: its threshold was set by hand, its networks see a window of "
            "the frame, or its frames are read in bands",
            received=f"schema {manifest.schema}",
            fix="copy the bundle again from where it was written, or export it again",
        )


def _require_tiling(manifest: Manifest, path: Path) -> None:
    if manifest.tiling is None:
        return
    try:
        if manifest.input.crop is not UNSET:
            raise OptionError("tiles cover whole frames, and its networks see a window")
        manifest.tiling.require_fits((manifest.input.height, manifest.input.width), manifest.map_size)
        manifest.camera  # noqa: B018 - raises for a frame that is too large
    except KdxError as error:
        raise BundleError(
            f"{INDEX} of '{path}' is not valid: {error.message}", fix="export the bundle again"
        ) from error


def _require_frame_limits(manifest: Manifest, path: Path) -> None:
    channels = len(manifest.frame_limits.channels)
    if channels not in {0, manifest.input.channels}:
        raise BundleError(
            f"{INDEX} of '{path}' is not valid: its frame limits have {channels} channels",
            expected=f"{manifest.input.channels}, or none",
            fix="calibrate again",
        )


def _require_thresholds(manifest: Manifest, path: Path) -> None:
    for precision in manifest.precisions:
        is_own = precision in OWN_THRESHOLD
        stored = manifest.own_thresholds(precision).values() if is_own else [manifest.threshold]
        calibrated_on = manifest.files[graph_file(precision if is_own else "fp32")]
        if any(threshold is not None and threshold.graph_sha256 != calibrated_on for threshold in stored):
            raise BundleError(
                f"the threshold of '{path}' was calibrated on another graph", fix="export and calibrate again"
            )
        for threshold in stored:
            if threshold is not None:
                require_calibrated(threshold, path)
                require_given(threshold, path, is_scaled=is_own)
