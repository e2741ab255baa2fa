"""The one form of a result: a JSON file with what was run, where and how, and what was found.

    {"benchmark": "cpu", "command": "python -m benchmarks cpu DATA", "machine": {...},
     "settings": {...}, "budget": {...}, "found": {...}}

``settings`` decide what a figure means, ``budget`` how much was measured: calls, rounds, frames,
minutes. The file is written after every part. A later call continues it on the same machine, with
the same packages and settings; else the old file becomes ``FILE.old``. ``load_average`` says how
busy the machine was at the beginning. Older results have no ``command``.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from typing_extensions import Self

from benchmarks.commands import RESULTS
from kdx.runtime.machine import cpu_features, describe_machine, package_versions
from kdx.storage.files import write_atomic

Record = dict[str, Any]


class Result:
    """A result on disk; ``replaced`` says why an older file was put aside, or is empty."""

    def __init__(self, path: Path, record: Record) -> None:
        self.path = path
        self.record = record
        self.replaced = ""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file."""
        return cls(path, json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def resume(
        cls,
        benchmark: str,
        identity: Mapping[str, Any],
        budget: Mapping[str, Any],
        *,
        path: Path | None = None,
        fresh: bool = False,
    ) -> Self:
        """Continue the file of the same identity, or put it aside and begin another one.

        ``identity`` is what must not differ: ``machine``, ``settings`` or other parts.
        """
        path = path or result_file(benchmark)
        why = ""
        if path.is_file():
            try:
                result = cls.load(path)
                why = "asked to" if fresh else _difference(result.record, identity)
                if not why and isinstance(result.found, dict):
                    result.record.update(command=command_line(), budget=dict(budget))
                    return result
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                why = f"the file is damaged: {error}"
            path.replace(path.with_name(f"{path.name}.old"))
            print(f"beginning again ({why}); the old file is {path.name}.old", flush=True)
        head = {"benchmark": benchmark, "command": command_line(), "load_average": _load_average()}
        result = cls(path, {**head, **identity, "budget": dict(budget), "found": {}})
        result.replaced = why
        return result

    @property
    def found(self) -> Record:
        """What was measured so far, by part."""
        found: Record = self.record["found"]
        return found

    def put(self, **parts: Any) -> None:
        """Keep parts of what was found, and write the file."""
        self.found.update(parts)
        self.save()

    def save(self) -> None:
        """Write the file in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, (json.dumps(self.record, indent=2) + "\n").encode())


def result_file(benchmark: str) -> Path:
    """Return where a benchmark's result is kept."""
    return RESULTS / f"{benchmark}.json"


def machine_of(threads: int, packages: Sequence[str]) -> Record:
    """Return what decides figures of this machine, with versions of the installed packages."""
    machine: Record = msgspec.to_builtins(describe_machine(threads, package_versions(packages)))
    return {**machine, "features": cpu_features()}


def this_cpu() -> Record:
    """Return the processor's name, and its features, which decide how a runtime computes."""
    machine = machine_of(1, ())
    return {name: machine[name] for name in ("cpu", "features")}


def run_parts(result: Result, parts: Mapping[str, Callable[[], Any]], chosen: str | None) -> None:
    """Measure parts, or those with ``chosen`` names (with commas), and write after each."""
    names = chosen.split(",") if chosen else list(parts)
    if unknown := set(names) - set(parts):
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    for name in names:
        print(f"== {name}", flush=True)
        result.put(**{name: parts[name]()})
        print(f"wrote {result.path}", flush=True)


def _load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None  # Windows has none


def command_line() -> str:
    """Return the command that is running; of paths the last name alone."""
    words = [Path(word).name if len(Path(word).parts) > 1 else word for word in sys.argv[1:]]
    return f"{sys.argv[0]} {shlex.join(words)}".strip()


def _difference(old: Record, new: Mapping[str, Any]) -> str:
    """Say in what two identities differ; JSON knows no tuples."""
    plain = json.loads(json.dumps(new))
    return ", ".join(f"another {name}" for name, value in plain.items() if old.get(name) != value)
