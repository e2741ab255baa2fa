"""Renames that replace nothing."""

from __future__ import annotations

import pytest

from kdx.storage import renames
from kdx.storage.renames import rename_new


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_rename_replaces_nothing(tmp_path, monkeypatch, in_one_step):
    if not in_one_step:
        monkeypatch.setattr(renames.ctypes, "CDLL", lambda *_, **__: object())
    for name in ("a", "b"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text(encoding="utf-8") == "b"
    rename_new(tmp_path / "a", tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "a", tmp_path / "d")
