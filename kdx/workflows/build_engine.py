"""What a build of an engine would make, and what is there now."""

from __future__ import annotations

from typing import Any

from kd_export.engine.build import BuildPlan
from kdx.bundle.engine_record import engines_of, mismatch


def what_is_there(plan: BuildPlan) -> str:
    """Return a text with what stands where the engine would be written."""
    for engine in engines_of(plan.target.parent.parent):
        if engine.path == plan.target:
            why_not = mismatch(engine.record, plan.fingerprint, plan.graph.sha256)
            return f"an engine that may not run: {why_not}" if why_not else "an engine that fits (--force rebuilds it)"
    return "nothing"


def record_of(plan: BuildPlan) -> dict[str, Any]:
    """Return a plan as ``kdx build-engine --dry-run --json`` prints it."""
    return {
        "target": str(plan.target),
        "graph": plan.graph.path.name,
        "fingerprint": plan.fingerprint,
        "precision": plan.request.precision,
        "batches": list(plan.request.batches),
        "level": plan.request.level,
        "there_now": what_is_there(plan),
    }
