"""Lets a detector's verdicts be logged and counted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdx.bundle.bundle import Bundle
from kdx.bundle.variants import OWN_THRESHOLD, graph_file
from kdx.runtime.backend import runtime_of
from kdx.runtime.detector import Detector

if TYPE_CHECKING:
    from kdx.monitoring.prometheus import Registry


def attach(detector: Detector, bundle: Bundle, log: str | Path | None, metrics: Registry | None) -> None:
    """Attach a log of verdicts and metrics for Prometheus to a bundle's detector, where they are asked for.

    Args:
        detector: The detector.
        bundle: The bundle that it was loaded from.
        log: The log's file, or None.
        metrics: True for the default registry of ``prometheus_client``, a registry, or None.

    Raises:
        OutputError: The log cannot be written, or belongs to another graph.
        OptionError: The package ``prometheus_client`` is missing.
    """
    runtime = runtime_of(detector.backend.name)
    if metrics is not None:
        from kdx.monitoring.prometheus import Metrics

        detector.metrics = Metrics(metrics, bundle, detector.precision, runtime)
    if log is not None:
        from kdx.monitoring.verdict_log import LogFacts, VerdictLog

        manifest = bundle.manifest
        facts = LogFacts(
            bundle.path.name,
            manifest.files[graph_file(detector.precision)],
            detector.precision,
            manifest.roi_sha256,
            manifest.level_sha256,
            # Scores of FP32 and FP16 may come from any runtime.
            runtime if detector.precision in OWN_THRESHOLD else None,
        )
        detector.log = VerdictLog(log, facts)
