"""Prometheus metrics of detectors: verdicts by decision, their latency, and drift of the scores.

    detector = kdx.load("tile.kdx", metrics=True)
    prometheus_client.start_http_server(9000)

Verdicts a second are ``rate(kdx_verdicts_total[1m])``, percentiles
``histogram_quantile(0.99, rate(kdx_verdict_seconds_bucket[5m]))``. Needs the extra ``metrics``.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import numpy as np

from kdx.decision.verdict import Decision, Reason, Verdict
from kdx.errors import OptionError
from kdx.monitoring.judged_by import bundle_name

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from kdx.bundle.bundle import Bundle
    from kdx.monitoring.drift import Comparison
    from kdx.runtime.verdict_observer import JudgedFrame

    Registry = CollectorRegistry | Literal[True]

_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)


class _Families:
    """The metrics of one registry, and the latest scores and the bundle for each set of labels.

    A name exists once in a registry.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        names = ("bundle", "precision", "runtime")
        self.verdicts = Counter("kdx_verdicts", "Verdicts.", (*names, "decision"), registry=registry)
        self.seconds = Histogram(
            "kdx_verdict_seconds", "From the array to the verdict.", names, buckets=_BUCKETS, registry=registry
        )
        self.drift = Gauge(
            "kdx_drift_effect",
            "Largest difference of the latest scores' distribution from calibration's; NaN for too few scores.",
            names,
            registry=registry,
        )
        self.alarm = Gauge(
            "kdx_drift_alarm",
            "1 where kdx drift raises an alarm: a large and significant difference; NaN for too few scores.",
            names,
            registry=registry,
        )
        self.windows: dict[tuple[str, str, str], _Window] = {}
        self.folders: dict[tuple[str, str, str], Path] = {}


@dataclass
class _Window:
    """The latest scores and the scores of the calibration."""

    calibrated: tuple[float, ...]
    recent: deque[float] = field(default_factory=deque)
    compared: tuple[tuple[float, ...], Comparison | None] = ((), None)

    def effect(self) -> float:
        """Return the drift of the latest scores from the calibration; NaN for too few scores."""
        found = self._comparison()
        return float("nan") if found is None else found.effect

    def alarm(self) -> float:
        """Return 1 where kdx drift raises an alarm, 0 where not; NaN for too few scores."""
        found = self._comparison()
        return float("nan") if found is None else float(found.alarm)

    def _comparison(self) -> Comparison | None:
        """Compare the scores once, although both gauges are read."""
        from kdx.monitoring.drift import FEWEST_VERDICTS, compare

        recent = tuple(self.recent)
        if len(recent) < FEWEST_VERDICTS:
            return None
        seen, found = self.compared
        if found is None or seen != recent:
            found = compare(np.array(recent), np.array(self.calibrated))
            self.compared = recent, found
        return found


_families: WeakKeyDictionary[CollectorRegistry, _Families] = WeakKeyDictionary()
_lock = threading.Lock()


class Metrics:
    """Counts a detector's verdicts. One bundle, precision and runtime share their counts.

    Each runtime has its own counts, because it has its own latency and, in BF16 and INT8, its own
    scores and threshold.

    Args:
        registry: Where the metrics are registered; True for the default registry of Prometheus.
        bundle: The detector's bundle, which is labelled by its folder's name.
        precision: The precision of its graph.
        runtime: The runtime that computes its scores.

    A warning names two bundles in folders of one name: they share their metrics.

    Raises:
        OptionError: The package ``prometheus_client`` is missing, or the registry is of another
            type.
    """

    def __init__(self, registry: Registry, bundle: Bundle, precision: str, runtime: str) -> None:
        families = _families_of(registry)
        labels = (bundle_name(bundle), precision, runtime)
        _warn_of_another(families, labels, bundle.path)
        threshold = bundle.manifest.threshold_of(precision, runtime)
        self._verdicts = {each.value: families.verdicts.labels(*labels, each.value) for each in Decision}
        self._seconds = families.seconds.labels(*labels)
        self._recent = _window(families, labels, threshold.scores if threshold else ()).recent

    def add(self, verdict: Verdict, milliseconds: float, shown: JudgedFrame | None = None) -> None:
        """Count a verdict and the time that it took."""
        self._verdicts[verdict.decision.value].inc()
        self._seconds.observe(milliseconds / 1e3)
        # As kdx drift: the calibration has scores of parts alone, in its own region of interest.
        is_comparable = not verdict.frame_faults and verdict.reason is not Reason.OTHER_REGION
        if is_comparable and np.isfinite(verdict.score):
            self._recent.append(verdict.score)

    def close(self) -> None:
        """Do nothing: the registry keeps the counts, to which other detectors may add."""


def _warn_of_another(families: _Families, labels: tuple[str, str, str], path: Path) -> None:
    """Warn where labels belong to a bundle in another folder of the same name."""
    folder = Path(os.path.abspath(path))  # noqa: PTH100  # a link that is changed keeps its name
    with _lock:
        before = families.folders.get(labels, folder)
        families.folders[labels] = folder
    if before != folder and before.resolve() != folder.resolve():
        warnings.warn(
            f"'{folder}' and '{before}' share their metrics, which are named '{labels[0]}': verdicts are counted "
            "together, and drift is that of the bundle loaded last; rename a folder, or pass another registry",
            stacklevel=2,
        )


def _window(families: _Families, labels: tuple[str, str, str], calibrated: Sequence[float]) -> _Window:
    """Return the window of a bundle, precision and runtime; a new one after another calibration."""
    from kdx.monitoring.drift import WINDOW

    with _lock:
        before = families.windows.get(labels)
        if before is not None and before.calibrated == tuple(calibrated):
            return before
        window = families.windows[labels] = _Window(tuple(calibrated), deque(maxlen=WINDOW))
        if calibrated:  # computed when Prometheus reads it
            families.drift.labels(*labels).set_function(window.effect)
            families.alarm.labels(*labels).set_function(window.alarm)
        elif before is not None:  # the drift of a bundle that is no longer there
            families.drift.remove(*labels)
            families.alarm.remove(*labels)
        return window


def _families_of(registry: Registry) -> _Families:
    try:
        from prometheus_client import REGISTRY, CollectorRegistry
    except ImportError as error:
        raise OptionError(
            "metrics need the package 'prometheus_client', which is not installed", fix='pip install "kdx[metrics]"'
        ) from error
    collector = REGISTRY if registry is True else registry
    if not isinstance(collector, CollectorRegistry):
        raise OptionError(
            "invalid registry for metrics",
            expected="True, or a prometheus_client.CollectorRegistry",
            received=type(registry).__name__,
        )
    with _lock:
        if collector not in _families:
            _families[collector] = _Families(collector)
        return _families[collector]
