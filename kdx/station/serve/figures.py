"""What ``/metrics`` shows: the figures of the detectors, and those of the service itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from kdx.monitoring.judged_by import JudgedBy
from kdx.runtime.backend_table import runtime_of

_LABELS = ("bundle",)


class DriftFigures(NamedTuple):
    """The drift of a bundle's scores, as ``/metrics`` shows it.

    Attributes:
        effect: How the latest scores differ from those of the calibration, see
            :class:`kdx.monitoring.drift.Drift`.
        alarm: Whether ``kdx drift`` raises an alarm.
    """

    effect: float
    alarm: bool


@dataclass(frozen=True)
class BundleFigures:
    """The figures of one bundle.

    Attributes:
        places: The requests that are being received, wait, or are judged.
        full: The requests that were refused because too many waited.
        left: The requests whose client had gone before its image was there or had its turn, so
            that nothing was judged.
        refused: The requests with an image that the detector does not take.
        failed: The images that are undecided because the backend failed.
        missed: The triggers that are undecided because no whole frame that fits came in time.
    """

    places: Gauge
    full: Counter
    left: Counter
    refused: Counter
    failed: Counter
    missed: Counter


class Figures:
    """The figures of a service, in a registry of its own.

    Attributes:
        registry: The registry, to which detectors add theirs (``kdx.load(..., metrics=registry)``).
        no_bundle: The images that are undecided because no bundle belongs to their product.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self._places = Gauge(
            "kdx_serve_places", "Requests that are received, wait or are judged.", _LABELS, registry=self.registry
        )
        self._full = self._counter("full", "Requests refused because too many waited.")
        self._left = self._counter("left", "Requests whose client had gone before its image was there or had its turn.")
        self._refused = self._counter("refused", "Images that the detector does not take.")
        self.no_bundle = Counter(
            "kdx_serve_no_bundle",
            "Images that are undecided because no bundle belongs to their product.",
            registry=self.registry,
        )
        self._failed = self._counter("failed", "Images that are undecided because the backend failed.")
        self._missed = self._counter("missed", "Triggers that are undecided: no whole frame that fits came in time.")

    def of(self, bundle: str) -> BundleFigures:
        """Return the figures of a bundle, labelled by its folder's name as the detector's are."""
        return BundleFigures(
            places=self._places.labels(bundle),
            full=self._full.labels(bundle),
            left=self._left.labels(bundle),
            refused=self._refused.labels(bundle),
            failed=self._failed.labels(bundle),
            missed=self._missed.labels(bundle),
        )

    def drift_of(self, by: JudgedBy) -> DriftFigures | None:
        """Return how a bundle's latest scores differ from its calibration's; None for too few."""
        labels = {"bundle": by.bundle, "precision": by.precision, "runtime": runtime_of(by.backend)}
        families = self.registry.restricted_registry(["kdx_drift_effect", "kdx_drift_alarm"]).collect()
        found = {each.name: each.value for family in families for each in family.samples if each.labels == labels}
        effect = found.get("kdx_drift_effect", math.nan)  # a bundle without calibration has none
        return None if math.isnan(effect) else DriftFigures(effect, found["kdx_drift_alarm"] == 1)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"kdx_serve_{name}", text, _LABELS, registry=self.registry)
