"""What this process holds, as Linux counts it."""

from __future__ import annotations

import re
from pathlib import Path


def peak_memory_mb() -> float:
    """Return the most memory that this process ever held, by the kernel's high-water mark.

    The mark of getrusage begins with that of the process that started this one.
    """
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii", errors="replace"))
    return round(int(found[1]) * 1024 / 1e6, 1) if found else float("nan")


def memory_mb() -> dict[str, float]:
    """Return the resident (``rss``) and the proportional (``pss``) set size, in megabytes."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    sizes = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    return {name.lower(): sizes[name] * 1024 / 1e6 for name in ("Rss", "Pss")}
