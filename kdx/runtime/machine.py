"""A description of the machine on which something was measured, for the record."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

# The packages that decide how fast a bundle runs, and what it computes.
RUNTIME_PACKAGES = ("kdx", "numpy", "onnxruntime", "openvino", "torch", "timm")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The machine on which something was measured.

    Attributes:
        cpu: The CPU's model name.
        cores: The number of logical cores that the process may use.
        threads: The number of threads that each backend was given.
        system: The operating system.
        python: Python's version.
        versions: The versions of the packages that ran, by name.
    """

    cpu: str
    cores: int
    threads: int
    system: str
    python: str
    versions: dict[str, str]


def describe_machine(threads: int, versions: dict[str, str]) -> Machine:
    """Describe this machine.

    Args:
        threads: The number of threads that each backend was given.
        versions: The versions of the packages that ran, by name; see :func:`package_versions`.
    """
    return Machine(
        cpu=_cpu_model(),
        cores=usable_cores(),
        threads=threads,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=versions,
    )


def usable_cores() -> int:
    """Return how many logical cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of the named packages that are installed."""
    versions = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
