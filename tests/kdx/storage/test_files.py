"""Hashes of files, folders that are replaced, and the permissions of what is written."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdx.storage import umask
from kdx.storage.files import new_folder, sha256_if_readable, write_atomic

NOBODY = 65534


@pytest.fixture
def users_folder(tmp_path) -> Iterator[Path]:
    """A folder of a user whom permissions stop; root becomes another user meanwhile."""
    if os.name == "nt" or os.geteuid() != 0:
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp())  # the parents of tmp_path are closed to others
    try:
        os.chown(folder, NOBODY, -1)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def of_the_group() -> Iterator[int]:
    """A umask that lets the group read, which no system has by default."""
    before = os.umask(0o026)
    yield 0o026
    os.umask(before)


def test_a_file_that_cannot_be_read_has_no_hash(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x")
    assert sha256_if_readable(tmp_path / "a") == hashlib.sha256(b"x").hexdigest()
    assert sha256_if_readable(tmp_path / "gone") is None
    assert sha256_if_readable(tmp_path) is None

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert sha256_if_readable(tmp_path / "a") is None


@pytest.mark.skipif(os.name == "nt", reason="Windows flushes only files that are open for writing")
def test_a_folder_with_a_read_only_file_is_replaced(users_folder):
    target = users_folder / "tile.kdx"
    for content in (b"old", b"new"):
        with new_folder(target, force=True) as folder:
            (folder / "graph.onnx").write_bytes(content)
            (folder / "graph.onnx").chmod(0o444)
    assert (target / "graph.onnx").read_bytes() == b"new"
    assert [path.name for path in users_folder.iterdir()] == ["tile.kdx"]


@pytest.mark.skipif(not umask._STATUS.is_file(), reason="the system does not say what the umask is")
def test_the_umask_is_respected_and_never_changed(tmp_path, of_the_group, monkeypatch):
    """Another thread could create a file while it is changed."""

    def refuse(mask: int) -> int:
        raise AssertionError(f"the umask was set to {mask:o}")

    with monkeypatch.context() as patched:
        patched.setattr(os, "umask", refuse)
        write_atomic(tmp_path / "file", b"x")
        with new_folder(tmp_path / "folder"):
            pass
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~of_the_group
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~of_the_group


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("status", [None, "Name:\tpython\n"])
def test_a_system_that_does_not_say_the_umask_is_asked_at_import(tmp_path, of_the_group, monkeypatch, status):
    if status is not None:
        (tmp_path / "status").write_text(status, encoding="utf-8")
    monkeypatch.setattr(umask, "_STATUS", tmp_path / "status")
    assert umask._at_import() == of_the_group
    monkeypatch.setattr(umask, "_AT_IMPORT", 0o077)
    assert umask.umask() == 0o077
    before = os.umask(of_the_group)
    assert before == of_the_group  # what was asked for was restored
