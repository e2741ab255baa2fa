"""Compact pairs beside the leader: what they cost, and how accurate they are.

    python -m benchmarks compact DATA [--work DIR] [--data-sets A,B] [--pairs A,B] [--seeds 0,1]
        [--only accuracy|latency] [--threads 1,2]

Trains, evaluates and times what ``settings.toml`` names, as ``python -m benchmarks accuracy`` does,
whose options it has. Writes ``results/compact.json`` after every part.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.accuracy.run import measure


def main() -> None:
    """Measure compact pairs."""
    measure("compact", __doc__, Path(__file__).with_name("settings.toml"))
