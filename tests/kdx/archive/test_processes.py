"""Child processes: an idle one exits by itself, and leaves nothing to be cleaned up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import contextlib, multiprocessing
from kdx.archive.processes import Child

def serve(connection, argument):
    lock = multiprocessing.get_context("spawn").Lock()
    connection.send("ready")
    with contextlib.suppress(EOFError):
        connection.recv()

if __name__ == "__main__":
    child = Child(serve, None)
    child.connection.recv()
    child.{end}()
"""


def errors_of(program: Path, end: str) -> str:
    program.write_text(PROGRAM.format(end=end), encoding="utf-8")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, timeout=300)
    return done.stderr


def test_an_idle_child_removes_its_semaphores(tmp_path):
    assert errors_of(tmp_path / "program.py", "finish") == ""


def test_a_killed_child_leaves_them_to_the_resource_tracker(tmp_path):
    assert "leaked semaphore" in errors_of(tmp_path / "program.py", "close")
