"""A description of the machine on which something was measured, for the record."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

# Instructions that decide in which arithmetic a runtime computes, and how fast, by Linux's names.
_DECISIVE = {
    "amx_bf16", "amx_int8", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni",
    "asimddp", "bf16", "i8mm", "sve",
}  # fmt: skip
# The packages that decide how fast a bundle runs, and what it computes.
# The packages that bring TensorRT, of which an installation has one.
TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings")
RTX_PACKAGES = ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")
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


def cpu_features() -> list[str]:
    """Return the instructions of this CPU that decide how runtimes compute, by Linux's names.

    CPUs of one model name differ in them: a virtual machine may hide some. Empty where there is no
    ``/proc/cpuinfo``, and on CPUs that have none of them.
    """
    return sorted(_DECISIVE & {*_cpuinfo("flags").split(), *_cpuinfo("Features").split()})


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
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(name: str) -> str:
    """Return what Linux says of the first core by a name, such as ``flags``; empty if nothing."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
