"""The one renderer of tables, and the words that tables share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kdx.text import number_of

_RUNTIMES = {"onnxruntime": "ONNX Runtime", "onnxruntime-cpu": "ONNX Runtime", "openvino": "OpenVINO"}


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Return the lines of a Markdown table; the columns of ``right``, from 0, align right."""
    rights = set(right)
    marks = ("--:" if index in rights else "---" for index in range(len(headings)))
    return [f"| {' | '.join(headings)} |", f"|{'|'.join(marks)}|", *(f"| {' | '.join(row)} |" for row in rows)]


def runtime_name(backend: str, precision: str = "") -> str:
    """Return the usual name of a runtime, with the precision in capitals."""
    return f"{_RUNTIMES.get(backend, backend)} {precision.upper()}".strip()


def machine_text(record: dict[str, Any], *packages: str) -> str:
    """Return threads, processor and the versions of some packages, where they were installed."""
    machine = record["machine"]
    return f"{threads_text(machine)} ({versions_text(record, *packages)})"


def threads_text(where: dict[str, Any]) -> str:
    """Return ``threads``, if there are any, ``cpu`` and its ``features``, if known, in words."""
    threads = f"{number_of(where['threads'], '[thread|threads]')} of " if "threads" in where else ""
    return threads + " with ".join(filter(None, [where["cpu"], ", ".join(where.get("features", []))]))


def versions_text(record: dict[str, Any], *packages: str) -> str:
    """Return the versions of some packages, as far as they were installed."""
    versions = record["machine"]["versions"]
    return ", ".join(f"{name} {versions[name]}" for name in packages if name in versions)
