"""Chooses the engine of a bundle that Triton serves."""

from __future__ import annotations

from kdx.bundle.bundle import Bundle
from kdx.bundle.engine_record import Engine, EngineRecord, engines_of, rebuild_command
from kdx.errors import BackendError, OptionError


def find_served_engine(bundle: Bundle, precision: str | None, name: str | None) -> Engine:
    """Return the engine of a bundle for Triton.

    Args:
        bundle: The bundle.
        precision: The precision of the engine; None for any.
        name: The engine's name; None for the only suitable one.

    Raises:
        BackendError: No engine is suitable; the message names the reason for each.
        OptionError: Several engines are suitable.
    """
    found: dict[str, Engine] = {}
    unreadable: dict[str, str] = {}
    why_not: dict[str, str] = {}
    stale: list[EngineRecord] = []
    for engine in engines_of(bundle.path, unreadable):
        record, found_name = engine.record, engine.path.name
        if name not in {None, found_name}:
            continue
        if record.fingerprint.flavour != "tensorrt":
            why_not[found_name] = "for TensorRT for RTX, for which Triton has no backend"
        elif precision not in {None, record.precision}:
            why_not[found_name] = record.precision
        elif record.onnx_sha256 != _graph_sha256(bundle, record.precision):
            why_not[found_name] = "stale: built from another graph"
            stale.append(record)
        else:
            found[found_name] = engine
    if len(found) > 1:
        raise OptionError(
            "several engines are suitable", expected="one", received=", ".join(found), fix="name one with `engine`"
        )
    if not found:
        reasons = {**why_not, **unreadable}
        place = str(bundle.path)
        command = rebuild_command(stale[0], place) if stale else f"kdx build-engine {place}"
        raise BackendError(
            f"'{bundle.path}' holds no engine to serve",
            expected=f"an engine of TensorRT{f', {precision}' if precision else ''}",
            received="; ".join(f"engines/{name}: {reason}" for name, reason in reasons.items()) or "no engine",
            fix=f"{command}, on the GPU and with the TensorRT of the server",
        )
    return next(iter(found.values()))


def _graph_sha256(bundle: Bundle, precision: str) -> str:
    held = precision in bundle.manifest.precisions
    return bundle.graph_of(precision).sha256 if held else ""
