"""What the benchmark scripts share: calling ``kdx`` as a user does, and keeping what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def kdx(*arguments: str | Path, allow: tuple[int, ...] = (0,), threads: int | None = None) -> Any:
    """Run one ``kdx`` command with ``--json`` and return what it printed: a document, or a list for JSON Lines.

    Args:
        *arguments: The command's.
        allow: Exit statuses that are expected.
        threads: PyTorch's, where the command has no option for it; None leaves them.
    """
    command = [sys.executable, "-m", "kdx", *map(str, arguments), "--json"]
    print("$ kdx", *arguments, flush=True)
    started = time.perf_counter()
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode not in allow:
        sys.exit(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    print(f"  {time.perf_counter() - started:.1f} s", flush=True)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        return [json.loads(line) for line in done.stdout.splitlines()]


def write(name: str, record: dict[str, Any]) -> None:
    """Write a result file."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(json.dumps(record, indent=2, sort_keys=False) + "\n", encoding="utf-8")
    print(f"wrote {RESULTS / name}")
