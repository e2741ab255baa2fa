"""Gives a detector its observers: the log of verdicts, and the metrics for Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdx.bundle.bundle import Bundle
from kdx.bundle.variants import OWN_THRESHOLD
from kdx.runtime.backend_table import runtime_of
from kdx.runtime.detector import Detector
from kdx.runtime.verdict_observer import VerdictObserver

if TYPE_CHECKING:
    from kdx.monitoring.prometheus import Registry


def with_observers(detector: Detector, bundle: Bundle, log: str | Path | None, metrics: Registry | None) -> Detector:
    """Return a bundle's detector with a log of verdicts and metrics, where they are asked for.

    Args:
        detector: The detector; its backend becomes that of the returned one.
        bundle: The bundle that it was loaded from.
        log: The log's file, or None.
        metrics: True for the default registry of ``prometheus_client``, a registry, or None.

    Raises:
        OutputError: The log cannot be written, or belongs to another graph.
        OptionError: The package ``prometheus_client`` is missing.
    """
    precision, runtime = detector.precision, runtime_of(detector.backend.name)
    counter = None if metrics is None else _metrics(metrics, bundle, precision, runtime)
    return Detector(
        detector.backend,
        detector.input,
        detector.rule,
        max_batch=detector.max_batch,
        precision=precision,
        log=None if log is None else _log(log, bundle, detector),
        metrics=counter,
    )


def _metrics(registry: Registry, bundle: Bundle, precision: str, runtime: str) -> VerdictObserver:
    from kdx.monitoring.prometheus import Metrics

    return Metrics(registry, bundle, precision, runtime)


def _log(path: str | Path, bundle: Bundle, detector: Detector) -> VerdictObserver:
    from kdx.monitoring.judged_by import JudgedBy, bundle_name
    from kdx.monitoring.log_file import LogFacts
    from kdx.monitoring.verdict_log import VerdictLog

    manifest, precision, by = bundle.manifest, detector.precision, JudgedBy.of(detector, bundle)
    facts = LogFacts(
        bundle=bundle_name(bundle),
        graph_sha256=by.graph_sha256,
        precision=precision,
        roi_sha256=manifest.roi_sha256,
        level_sha256=manifest.level_sha256,
        # Scores of FP32 and FP16 may come from any runtime.
        runtime=runtime_of(by.backend) if precision in OWN_THRESHOLD else None,
    )
    return VerdictLog(path, facts, by)
