"""Running ``kdx`` as a user does, and modules of the benchmarks in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def parser_of(doc: str | None, *paths: str, **counts: int) -> ArgumentParser:
    """Return a parser that shows a module's docstring, with paths and options that are numbers."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    for name in paths:
        parser.add_argument(name, type=Path)
    for name, default in counts.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    return parser


def kdx(*arguments: str | Path, allow: tuple[int, ...] = (0,), threads: int | None = None) -> Any:
    """Run a ``kdx`` command with ``--json``; return its document, or a list for JSON Lines.

    Other exit statuses than those of ``allow`` end this process; ``threads`` are PyTorch's.
    """
    command = [sys.executable, "-m", "kdx", *map(str, arguments), "--json"]
    print("$ kdx", *arguments, flush=True)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=environment(threads))
    if done.returncode not in allow:
        sys.exit(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    print(f"  {time.perf_counter() - started:.1f} s", flush=True)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        return [json.loads(line) for line in done.stdout.splitlines()]


def environment(threads: int | None = None) -> dict[str, str]:
    """Return the environment of a child that imports ``benchmarks`` and uses so many threads."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    counts = dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {}
    return {**os.environ, **counts, "PYTHONPATH": paths}


def run_module(name: str, *arguments: object, threads: int | None = None) -> Any:
    """Run ``python -m NAME`` in a process, and return the JSON document that it prints last."""
    command = [sys.executable, "-m", name, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=False, env=environment(threads))
    if done.returncode:
        sys.exit(f"{name} ended with status {done.returncode}\n{done.stdout[-2000:]}")
    return json.loads(done.stdout[done.stdout.rstrip().rfind("\n") + 1 :])
