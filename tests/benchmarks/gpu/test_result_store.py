"""The result of the GPU benchmark: rows that survive another call."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu.candidates import EAGER
from benchmarks.gpu.result_store import OK, Store, row_of


@pytest.mark.parametrize("change", [{}, {"machine": "other"}, {"sources": "other"}])
def test_rows_are_kept_on_the_same_machine_with_the_same_sources(tmp_path: Path, change) -> None:
    path, identity = tmp_path / "gpu-a.json", {"machine": "this", "sources": "these"}
    store = Store.resume("gpu", identity, {}, path=path)
    store.put_rows([row_of(("stpm", 1, EAGER), OK)])
    again = Store.resume("gpu", identity | change, {}, path=path)
    assert again.rows == ({} if change else store.rows)
    assert path.with_name("gpu-a.json.old").is_file() == bool(change)


def test_what_was_being_done_is_noted_until_it_is_over(store: Store) -> None:
    assert store.marked() is None
    store.mark(("stpm", 1, EAGER))
    assert Store(store.path, {"found": {}}).marked() == ("stpm", 1, EAGER)
    store.mark(None)
    assert store.marked() is None


def test_only_keys_without_a_row_are_missing(store: Store) -> None:
    store.put_rows([row_of(("stpm", 1, EAGER), OK)])
    assert store.missing([("stpm", 1, EAGER), ("stpm", 8, EAGER)]) == [("stpm", 8, EAGER)]
