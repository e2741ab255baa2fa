"""The tables of the README and of ``docs/``, made from ``results/*.json``.

python -m benchmarks tables          rewrite them
python -m benchmarks tables --check  exit 1 if they differ
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from benchmarks.archive.table import archive_table
from benchmarks.commands import RESULTS, ROOT
from benchmarks.cpu.table import cpu_table, scaling_text
from benchmarks.gpu.table import gpu_text
from benchmarks.peers.table import peers_table
from benchmarks.robustness.table import robustness_table
from benchmarks.tiling.table import tiling_table

# What the papers print of their own systems; the rest do not say.
_PAPER_COSTS = {"dskd": "6.17 GFLOP, 39.3 M (Table 6)"}
PAPER_LATENCY = {
    "stpm": "10 (RTX 2080 Ti); 12 (anomalib)",
    "reduced-student": "9.2 (RTX 2080 Ti)",
    "mixed-teacher": "3 × reduced student",
    "dual-det": "12 (RTX 3080 Ti)",
    "dual-loc": "6 (RTX 3080 Ti)",
    "dskd": "217 (Intel i7, 2.3 GHz)",
    "reverse-distillation": "16 (RTX 3080 Ti)",
}


def complexity_table() -> str:
    """What every method costs at its paper's size."""
    record = _read("complexity.json")
    lines = [
        "| method | teacher | image | parameters | GFLOP | graph | peak memory | paper | paper's ms an image |",
        "|---|---|--:|--:|--:|--:|--:|---|---|",
    ]
    for row in record["methods"]:
        name, flop = row["method"], 2 * sum(row["multiply_adds"].values()) / 1e9
        lines.append(
            f"| {name} | {', '.join(row['backbones'])} | {row['image_size']}² | {row['parameters'] / 1e6:.1f} M | "
            f"{flop:.2f} | {row['graph_bytes'] / 1e6:.1f} MB | {row['peak_memory_bytes'] / 1e6:.0f} MB | "
            f"{_PAPER_COSTS.get(name, '')} | {PAPER_LATENCY.get(name, '')} |"
        )
    lines += [
        "",
        "Parameters of the deployed graph, nothing after the last tap; two FLOP a multiply-add, of convolutions and "
        "of the tail's constant matrices; peak memory of the whole process that loads the bundle and judges an image, "
        "one thread. What DSKD's paper calls 6.17 GFLOP are multiply-adds: the graph here has "
        f"{_multiply_adds(record, 'dskd'):.2f} G of them; its parameters must count ResNet-18 beyond the last tap.",
    ]
    return "\n".join(lines)


def _multiply_adds(record: Any, method: str) -> float:
    return next(sum(r["multiply_adds"].values()) for r in record["methods"] if r["method"] == method) / 1e9


def gpu_table() -> str:
    """Every method on the GPUs that ran ``gpu.py``."""
    return gpu_text(RESULTS, PAPER_LATENCY)


TABLES = {
    "cpu": cpu_table,
    "peers": peers_table,
    "scaling": scaling_text,
    "complexity": complexity_table,
    "gpu": gpu_table,
    "archive": archive_table,
    "robustness": robustness_table,
    "tiling": tiling_table,
}


def render(text: str) -> str:
    """Return a document with every table between its markers as the results give it."""
    for name, table in TABLES.items():
        marker = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        body = table()
        text = marker.sub(lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text)
    return text


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def main() -> None:
    """Write or check every document."""
    stale = []
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        old = document.read_text(encoding="utf-8")
        new = render(old)
        if old != new:
            stale.append(str(document.relative_to(ROOT)))
            if "--check" not in sys.argv:
                document.write_text(new, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"{', '.join(stale)}: not what benchmarks/results gives; run python -m benchmarks tables")


if __name__ == "__main__":
    main()
