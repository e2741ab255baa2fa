"""Commands on a disk that is full or read-only: a mount in a namespace that ends with its process.

Run as a script with a JSON list of cases; prints what came of each. Needs root, or user namespaces.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.robustness.tools.children import Child, prepare_process, run_command
from tests.robustness.tools.kill import facts_of
from tests.robustness.tools.setups import call_setup

_NEW_NAMESPACE, _NEW_USER = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 1, 32, 16384, 1 << 18  # MS_...
_LIBC = ctypes.CDLL(None, use_errno=True)
_PAGE = 4096


def on_small_disk(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in this process, which gets a disk of its own.

    Args:
        case: ``disk``: an empty folder to mount it on; ``copy``: a bundle that goes there first, as
            ``tile.kdx``, or none; ``command``; ``free_pages``: how many pages of 4 kB are left, or
            none for a disk that is not full; ``again``: whether to call again once there is space;
            ``read_only``; ``setup`` as in ``kill.py``.
    """
    disk = Path(case["disk"])
    mount(disk)
    bundle = disk / "tile.kdx"
    if case.get("copy"):
        shutil.copytree(case["copy"], bundle)
    filler = disk.joinpath("filler")
    if case.get("free_pages") is not None:
        fill(filler, case["free_pages"])
    if case.get("read_only"):
        _call("mount", b"none", os.fsencode(disk), None, _READ_ONLY | _REMOUNT, None)
    for setup in case.get("setup", []):
        call_setup(setup)
    before = _content(disk)
    first = run_command(case["command"])
    result = {**first, "kept": _content(disk) == before, "left": sorted(set(_content(disk)) - set(before))}
    if bundle.is_dir():
        facts_of(bundle)  # raises where it is not whole
    if case.get("again"):
        filler.unlink()
        result["again"] = run_command(case["command"])["status"]
    return result


def fill(filler: Path, free_pages: int) -> None:
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        size = file.tell()
        try:
            while True:
                size += file.write(bytes(_PAGE))
        except OSError:
            pass
        file.truncate(max(size - free_pages * _PAGE, 0))


def mount(folder: Path, megabytes: int = 24) -> None:
    """Mount a disk in memory, where nobody else sees it.

    Raises:
        OSError: The system does not let us.
    """
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEW_NAMESPACE)
    except OSError:
        _call("unshare", _NEW_NAMESPACE | _NEW_USER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(text, encoding="ascii")
    _call("mount", b"none", b"/", None, _RECURSIVE | _PRIVATE, None)
    _call("mount", b"none", os.fsencode(folder), b"tmpfs", 0, b"size=%dm" % megabytes)


def _call(name: str, *arguments: Any) -> None:
    if getattr(_LIBC, name)(*arguments):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _content(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): hash(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def main(arguments: Sequence[str]) -> None:
    """Carry out the cases of a file; where the system lets nobody mount, say so."""
    cases = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    prepare_process({case["command"][0] for case in cases})

    def try_mount() -> None:
        mount(Path(cases[0]["disk"]))

    ended = Child(try_mount).result()
    if ended.error:
        print(json.dumps({"unable": ended.error.strip().splitlines()[-1]}))
        return
    found = []
    for case in cases:
        ended = Child(lambda case=case: on_small_disk(case)).result()
        found.append(ended.value or {"crashed": ended.error or f"signal {ended.signal}"})
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
