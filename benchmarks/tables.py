"""The tables of the README and of ``docs/``, made from ``results/*.json``.

python -m benchmarks tables          writes them between their markers
python -m benchmarks tables --check  exits with status 1 where they differ
python -m benchmarks tables NAME     prints one
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from benchmarks.archive.table import archive_table
from benchmarks.commands import RESULTS, ROOT
from benchmarks.cpu.table import cpu_table, scaling_table, scaling_text
from benchmarks.embed.table import embed_table
from benchmarks.frontier.family_table import family_table
from benchmarks.frontier.table import frontier_table
from benchmarks.gpu.table import gpu_table
from benchmarks.results import Result, result_file
from benchmarks.robustness.table import robustness_table
from benchmarks.station.table import station_table
from benchmarks.tiling.table import tiling_table
from benchmarks.training.run import training_table

# The benchmark whose result each table shows, and what renders it.
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "archive": ("archive", archive_table),
    "cpu": ("cpu", cpu_table),
    "embed": ("embed", embed_table),
    "family": ("compact", family_table),
    "frontier": ("compact", frontier_table),  # and of `accuracy` and `frontier`, as far as they are there
    "robustness": ("robustness", robustness_table),
    "station": ("station", station_table),
    "scaled": ("cpu", scaling_table),
    "scaling": ("cpu", scaling_text),
    "tiling": ("tiling", tiling_table),
    "training": ("training", training_table),
}
# One result for each GPU, beside those of one file.
TABLE_NAMES = frozenset({*TABLES, "gpu"})
_MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def lines_of(name: str) -> list[str]:
    """Return a table with what stands below it, whose lines have at most 100 characters."""
    return [line for whole in _whole_lines(name) for line in _wrapped(whole)]


def _wrapped(line: str) -> list[str]:
    if not line or line.startswith(("|", "!")):  # tables and figures
        return [line]
    indent = "  " if line.startswith("- ") else ""
    return textwrap.wrap(line, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _whole_lines(name: str) -> list[str]:
    if name == "gpu":
        return gpu_table([Result.load(file).record for file in sorted(RESULTS.glob("gpu*.json"))])
    benchmark, render = TABLES[name]
    file = result_file(benchmark)
    if not file.is_file():
        return [f"Not measured yet: `python -m benchmarks {benchmark}` writes this table."]
    return render(Result.load(file).record)


def fill(text: str) -> str:
    """Return a document with every table between its markers as the results give it."""
    return _MARKED.sub(lambda match: "\n".join([match[1].rstrip(), *lines_of(match[2]), match[3]]), text)


def main() -> None:
    """Write or check every document, or print one table."""
    names = [word for word in sys.argv[1:] if word != "--check"]
    if set(names) - TABLE_NAMES:  # and --help
        sys.exit(f"{__doc__}\nThere are {', '.join(sorted(TABLE_NAMES))}.")
    for name in names:
        print("\n".join(lines_of(name)))
    stale = []
    for document in () if names else (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        old = document.read_text(encoding="utf-8")
        new = fill(old)
        if old != new:
            stale.append(str(document.relative_to(ROOT)))
            if "--check" not in sys.argv:
                document.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"{', '.join(stale)}: not what benchmarks/results gives; run python -m benchmarks tables")
