"""Hashes of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kdx.storage.files import sha256_if_readable


def test_a_file_that_cannot_be_read_has_no_hash(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x")
    assert sha256_if_readable(tmp_path / "a") == hashlib.sha256(b"x").hexdigest()
    assert sha256_if_readable(tmp_path / "gone") is None
    assert sha256_if_readable(tmp_path) is None

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    assert sha256_if_readable(tmp_path / "a") is None
