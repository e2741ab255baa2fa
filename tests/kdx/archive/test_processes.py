"""Child processes: an idle one exits by itself, and leaves nothing to be cleaned up."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from kdx.archive import processes
from kdx.archive.error_transport import remote_error
from kdx.archive.processes import Child, LeavingChildren
from tests.kdx.archive.slow_exit import exit_slowly, write

PROGRAM = """
import contextlib, multiprocessing
from kdx.archive.processes import Child, LeavingChildren

def serve(connection, argument):
    lock = multiprocessing.get_context("spawn").Lock()
    connection.send("ready")
    with contextlib.suppress(EOFError):
        connection.recv()

if __name__ == "__main__":
    child, leaving = Child(serve, None), LeavingChildren()
    child.connection.recv()
    {end}
"""


def errors_of(program: Path, end: str) -> str:
    program.write_text(PROGRAM.format(end=end), encoding="utf-8")
    done = subprocess.run([sys.executable, program], capture_output=True, encoding="utf-8", check=True, timeout=300)
    return done.stderr


def test_an_idle_child_removes_its_semaphores(tmp_path):
    assert errors_of(tmp_path / "program.py", "leaving.add(child); leaving.wait()") == ""


def test_a_killed_child_leaves_them_to_the_resource_tracker(tmp_path):
    assert "leaked semaphore" in errors_of(tmp_path / "program.py", "child.close()")


def test_nobody_waits_for_a_child_that_exits_slowly(tmp_path):
    leaving = LeavingChildren()
    leaving.add(Child(exit_slowly, tmp_path))
    leaving.collect()
    write(tmp_path / "may exit")
    leaving.wait()
    assert (tmp_path / "exited").exists()


def test_a_child_that_does_not_exit_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_EXIT_S", 0.0)
    for end in (LeavingChildren.wait, LeavingChildren.close, LeavingChildren.collect):
        leaving, child = LeavingChildren(), Child(exit_slowly, tmp_path)
        pid = child.pid
        leaving.add(child)
        end(leaving)
        assert not Path(f"/proc/{pid}").exists()
    assert not (tmp_path / "exited").exists()


@pytest.mark.parametrize(("code", "fix"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "remove the cause")])
def test_an_error_of_the_system_says_what_to_do_before_the_same_command(code, fix):
    error = remote_error(OSError(code, "no", "/out/maps/a.npy")).error()
    assert error.fix == f"{fix}, and run the same command again to continue"
    assert "/out/maps/a.npy" in str(error)
