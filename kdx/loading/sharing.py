"""Finds bundles with the same teacher, by their graphs, and what differs between two others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import Manifest
from kdx.errors import BackendError
from kdx.runtime.backend_table import find_backend

if TYPE_CHECKING:
    from kdx.runtime.openvino.shared_teacher import Plan

# The backend that can share a teacher. ONNX Runtime is not suited: it prepares a convolution's
# weights again for each session, and is slower by a third if told not to; and cutting a graph needs
# the package onnx, which a line PC lacks.
SHARING = "openvino"


def shared_teacher_groups(candidates: Mapping[str, tuple[Bundle, str]]) -> Iterator[tuple[dict[str, Plan], str]]:
    """Yield plans and precision of each group of two or more bundles with the same teacher.

    Args:
        candidates: By name, the bundle and the precision in which it is run.
    """
    if len(candidates) < 2:
        return
    from kdx.runtime.openvino.shared_teacher import plan_of

    groups: dict[tuple[str, str], dict[str, Plan]] = {}
    for name, (bundle, precision) in candidates.items():
        plan = plan_of(bundle.graph_of(precision), precision)
        groups.setdefault((plan.teacher, precision), {})[name] = plan
    for (teacher, precision), plans in groups.items():
        if teacher and len(plans) > 1:
            yield plans, precision


def one_teacher(bundles: Mapping[str, Bundle], precision: str | None = None) -> tuple[dict[str, Plan], str]:
    """Return the plans of bundles that all have the same teacher, and the precision.

    Args:
        bundles: By name.
        precision: The precision of the graphs. None takes the backend's first that every bundle
            holds, in which each has a threshold wherever FP32 has one, and in which the teacher is
            the same.

    Raises:
        BackendError: The teachers are not the same; the message names two bundles and what differs.
        BundleError: A bundle holds no graph of that precision.
    """
    info = find_backend(SHARING)
    if not info.is_installed():
        raise BackendError("a shared teacher runs in OpenVINO, which is not installed", fix=info.install)
    if precision is not None:
        info.require_precision(precision)
    from kdx.runtime.openvino.shared_teacher import plan_of

    common = [each for each in info.precisions if info.offers(each) and all(_holds(b, each) for b in bundles.values())]
    for each in [precision] if precision else common:
        plans = {name: plan_of(bundle.graph_of(each), each) for name, bundle in bundles.items()}
        refusal = _refusal(bundles, plans, each)
        if refusal is None:
            return plans, each
    raise refusal or AssertionError("every bundle holds FP32")


def _holds(bundle: Bundle, precision: str) -> bool:
    """Whether a bundle holds a precision and has a threshold in it wherever FP32 has one."""
    manifest = bundle.manifest
    return precision in manifest.precisions and manifest.decides_alike(precision, find_backend(SHARING).runtime)


def _refusal(bundles: Mapping[str, Bundle], plans: Mapping[str, Plan], precision: str) -> BackendError | None:
    """Return why the bundles cannot share a teacher; None if they can."""
    from kdx.runtime.openvino.shared_teacher import first_difference, plan_of

    first = next(iter(plans))
    if not plans[first].teacher:
        return BackendError(f"no teacher was found in the graph of '{first}'", fix="export the bundle again")
    other = next((name for name, plan in plans.items() if plan.teacher != plans[first].teacher), None)
    if other is None:
        return None
    facts, others = (_facts(bundles[name].manifest) for name in (first, other))
    differing = [f"{what} {facts[what]} and {others[what]}" for what in facts if facts[what] != others[what]]
    fix = "load them without a shared teacher"
    if not differing and precision != "fp32":
        exact = [plan_of(bundles[name].graph_of("fp32"), "fp32") for name in (first, other)]
        if exact[0].teacher == exact[1].teacher:
            differing = [f"{precision}, whose scales come from each bundle's own images; in FP32 it is one teacher"]
            fix = "precision fp32, or load them without a shared teacher"
    if not differing:
        node = first_difference(plans[first], plans[other]) or first_difference(plans[other], plans[first])
        differing = [f"its weights or its inputs, from '{node}' on"]
    return BackendError(
        f"'{first}' and '{other}' have different teachers and cannot share one",
        expected="the same weights, taps, input and preprocessing",
        received="; ".join(differing),
        fix=fix,
    )


def _facts(manifest: Manifest) -> dict[str, str]:
    """Return what a bundle's manifest says about its teacher and the preprocessing before it."""
    taps = [] if manifest.pair is None else [tap.name for tap in manifest.pair.taps]
    height, width = manifest.map_size
    return {
        "input": manifest.input.describe(),
        "network size": f"{height} × {width}",
        "field of view": f"{manifest.field_of_view:g}",
        "backbone": manifest.provenance.backbone,
        "weights": manifest.provenance.weights,
        "taps": ", ".join(taps),
    }
