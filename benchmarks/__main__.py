"""Runs one benchmark: ``python -m benchmarks NAME [OPTIONS]`` from the repository's root."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = (
    "accuracy", "archive", "bands", "compact", "cpu", "embed", "frontier", "gpu", "robustness", "station",
    "tiling", "tables", "training",
)  # fmt: skip


def main() -> None:
    """Hand the options over to the benchmark that is named first."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in BENCHMARKS:
        sys.exit(f"python -m benchmarks NAME [OPTIONS]; NAME is one of {', '.join(BENCHMARKS)}")
    sys.argv[:] = [f"python -m benchmarks {name}", *sys.argv[2:]]
    module = {"tables": "tables", "accuracy": "frontier.run", "compact": "frontier.run"}.get(name, f"{name}.run")
    import_module(f"benchmarks.{module}").main()


if __name__ == "__main__":
    main()
