"""What ``kdx calibrate`` found: a calibration of each precision in each runtime."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdx.bundle.stored_threshold import Threshold
from kdx.calibration.by_hand import consequences
from kdx.calibration.threshold import Calibration
from kdx.remarks import Remark


@dataclass
class Calibrations:
    """The calibrations of a bundle.

    Attributes:
        exact: FP32's.
        own: Those of BF16 and INT8 that hold, by precision and runtime.
        refused: Why others do not hold, by precision and runtime.
        kept: Thresholds of runtimes that are not here, measured elsewhere on the same images at the
            same rates.
        missing: Runtimes that are not here and have no such threshold, by precision.
        remarks: What was left out of the images, or makes the thresholds doubtful.
        signature_removed: Whether the bundle had a signature, which was for its former threshold.
        removed: What the former calibration had and this one, which did not ask for it, has not:
            ``review_band``, ``level_map``.
    """

    exact: Calibration
    own: dict[str, dict[str, Calibration]] = field(default_factory=dict)
    refused: dict[str, dict[str, str]] = field(default_factory=dict)
    kept: dict[str, dict[str, Threshold]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    signature_removed: bool = False
    removed: list[str] = field(default_factory=list)

    def thresholds(self) -> dict[str, dict[str, Threshold]]:
        """Return the thresholds of BF16 and INT8, by precision and runtime."""
        found: dict[str, dict[str, Threshold]] = {precision: dict(kept) for precision, kept in self.kept.items()}
        for precision, by_runtime in self.own.items():
            found.setdefault(precision, {}).update({name: each.threshold for name, each in by_runtime.items()})
        return found

    def as_record(self) -> dict[str, object]:
        """Return what ``kdx calibrate --json`` prints."""
        result = self.exact
        return {
            "threshold": result.threshold,
            "by_hand": consequences(result.threshold),
            "runtime_thresholds": self.thresholds(),
            "refused": self.refused,
            "not_measured_here": self.missing,
            "passed_over_trained_on": result.trained_on,
            "bad_images": result.bad_images,
            "remarks": self.remarks,
            "frame_faults": result.frame_faults,
            "frame_limits": result.frame_limits,
            "frame_outliers": result.frame_outliers,
            "signature_removed": self.signature_removed,
            "removed": self.removed,
        }

    def refusals(self) -> dict[str, str]:
        """Return why a precision has no threshold in some runtime, by precision, in words."""
        return {
            precision: "; ".join(f"{runtime}: {reason}" for runtime, reason in by_runtime.items())
            for precision, by_runtime in self.refused.items()
        }
