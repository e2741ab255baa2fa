"""Hashes of files, and folders that are replaced."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdx.storage.files import new_folder, sha256_if_readable

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
