"""What the C library adds to the runtime's own call, as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import machine_text, table

_HEADINGS = ("precision", "OpenVINO's own call", "the C library", "Python", "library to own call", "library to Python")


def embed_table(record: dict[str, Any]) -> list[str]:
    """Return the medians by precision."""
    settings, budget = record["settings"], record["budget"]
    rows = [
        (
            row["precision"].upper(),
            *(f"{row[name]:.2f} ms" for name in ("raw_ms", "library_ms", "python_ms")),
            *(f"{row[name]:.3f}×" for name in ("library_to_raw", "library_to_python")),
        )
        for row in record["found"]["rows"]
    ]
    height, width = settings["map_size"]
    return [
        *table(_HEADINGS, rows, right=range(1, 6)),
        "",
        f"From the image to verdict and map: {settings['method']}, {settings['backbone']}, {height} × {width}, "
        f"{machine_text(record, 'openvino')}; medians of {budget['rounds']} rounds of {budget['calls']} calls. Ratios "
        "are medians of the rounds' own.",
    ]
