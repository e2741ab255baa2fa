"""Whether a bundle's calibration is valid for the precision and the runtime that decide here."""

from __future__ import annotations

import warnings

from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import Manifest
from kdx.decision.roi import StaleCalibrationWarning, stale_said
from kdx.runtime.backend_table import BACKENDS


class CalibrationWarning(UserWarning):
    """A precision's threshold was not measured by the runtime that computes the scores, or that is not known."""


def why_undecided(manifest: Manifest, precision: str, runtime: str) -> str | None:
    """Return why a precision gives no verdict in a runtime where FP32 would; None where it gives one.

    None for a bundle that was never calibrated, which promises no verdicts.
    """
    if manifest.threshold_of(precision, runtime) is not None:
        return None
    stale = stale_said(manifest, precision, runtime) or stale_said(manifest)
    if stale is not None or manifest.threshold is None:
        return stale
    others = sorted(manifest.own_thresholds(precision))
    measured = f"it was measured by {' and '.join(others)}" if others else "kdx calibrate found none that holds"
    return (
        f"{precision} has no threshold for {runtime} ({measured}): every verdict is undecided until kdx calibrate on a "
        f"machine with {runtime}"
    )


def why_uncertain(manifest: Manifest, precision: str, runtime: str) -> str | None:
    """Return what is not known of the threshold that decides; None if everything is known."""
    if manifest.is_runtime_known(precision) or manifest.threshold_of(precision, runtime) is None:
        return None
    possible = " or ".join(sorted(manifest.own_thresholds(precision)))
    return (
        f"the {precision} threshold was calibrated by an older kdx, which did not record whether {possible} measured "
        f"it; their {precision} scores differ by up to 17 %, and so may verdicts near the threshold: calibrate again"
    )


def runtimes_for(precision: str) -> list[str]:
    """Return every runtime that kdx knows to take a precision, installed here or not."""
    return list(dict.fromkeys(info.runtime for info in BACKENDS.values() if precision in info.precisions))


def warn_of_calibration(bundle: Bundle, precision: str, runtime: str) -> None:
    """Warn if verdicts of a calibrated bundle are undecided, or if another runtime may have measured the threshold."""
    manifest = bundle.manifest
    problem = why_undecided(manifest, precision, runtime) or why_uncertain(manifest, precision, runtime)
    if problem is not None:
        is_stale = stale_said(manifest, precision, runtime) or stale_said(manifest)
        warnings.warn(
            f"'{bundle.path}': {problem}", StaleCalibrationWarning if is_stale else CalibrationWarning, stacklevel=3
        )
