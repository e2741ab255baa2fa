"""Whether a bundle's calibration is valid for the precision and the runtime that decide here."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from kdx.bundle.bundle import Bundle
from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import records_of
from kdx.bundle.manifest import Manifest
from kdx.bundle.stored_threshold import Threshold
from kdx.decision.roi import StaleCalibrationWarning, why_stale
from kdx.runtime.backend_table import BACKENDS


class CalibrationWarning(UserWarning):
    """Another runtime measured a precision's threshold, or it is not known which one did."""


@dataclass(frozen=True)
class CalibrationValidity:
    """Whether the calibration of a bundle holds for a precision in a runtime.

    Attributes:
        manifest: The bundle's manifest.
        precision: The precision of the graph.
        runtime: The runtime that computes the scores.
    """

    manifest: Manifest
    precision: str
    runtime: str

    @property
    def is_stale(self) -> bool:
        """Whether the region of interest or the level map was changed after the calibration."""
        return self._stale is not None

    @property
    def why_undecided(self) -> str | None:
        """Why the precision gives no verdict in the runtime where FP32 would; None if it gives one.

        None for a bundle that was never calibrated, which promises no verdicts.
        """
        if self._threshold is not None:
            return None
        if self._stale is not None or self.manifest.threshold is None:
            return self._stale
        precision, runtime = self.precision, self.runtime
        others = sorted(self.manifest.own_thresholds(precision))
        measured = f"it was measured by {' and '.join(others)}" if others else "kdx calibrate found none that holds"
        return (
            f"{precision} has no threshold for {runtime} ({measured}): every verdict is undecided until kdx calibrate "
            f"on a machine with {runtime}"
        )

    @property
    def why_uncertain(self) -> str | None:
        """What is not known of the threshold that decides; None if everything is known."""
        precision = self.precision
        if self.manifest.is_runtime_known(precision) or self._threshold is None:
            return None
        possible = " or ".join(sorted(self.manifest.own_thresholds(precision)))
        return (
            f"the {precision} threshold was calibrated by an older kdx, which did not record whether {possible} "
            f"measured it; their {precision} scores differ by up to 17 %, and so may verdicts near the threshold: "
            "calibrate again"
        )

    @property
    def _threshold(self) -> Threshold | None:
        return self.manifest.threshold_of(self.precision, self.runtime)

    @property
    def _stale(self) -> str | None:
        return why_stale(self.manifest, self.precision, self.runtime) or why_stale(self.manifest)


def runtimes_for(precision: str, graph: Graph | None = None) -> list[str]:
    """Return every runtime that runs a precision, installed here or not.

    Args:
        precision: The precision.
        graph: The graph of that precision in its bundle: runtimes of engines are among them if the
            bundle holds such engines of it, for this machine or another.
    """
    built = {record.fingerprint.flavour for record in records_of(graph)} if graph else set()
    runs = [info for info in BACKENDS.values() if precision in info.precisions]
    found = [info for info in runs if not info.engine or info.engine in built]
    return list(dict.fromkeys(info.runtime for info in found))


def warn_of_calibration(bundle: Bundle, precision: str, runtime: str) -> None:
    """Warn if verdicts are undecided, or if another runtime may have measured the threshold."""
    validity = CalibrationValidity(bundle.manifest, precision, runtime)
    problem = validity.why_undecided or validity.why_uncertain
    if problem is not None:
        kind = StaleCalibrationWarning if validity.is_stale else CalibrationWarning
        warnings.warn(f"'{bundle.path}': {problem}", kind, stacklevel=3)
