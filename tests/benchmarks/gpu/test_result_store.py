"""The result of the GPU benchmark: rows that survive another call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.candidates import EAGER
from benchmarks.gpu.result_store import COMPARED, FAILED, Store, row_of

MACHINE = {"gpu": None, "cpu": "a CPU", "nvidia_smi": {}, "versions": {}}


@pytest.mark.parametrize("change", [{}, {"machine": {**MACHINE, "cpu": "other"}}, {"sources": "other"}])
def test_rows_are_kept_on_the_same_machine_with_the_same_sources(tmp_path: Path, change: dict[str, Any]) -> None:
    path, identity = tmp_path / "gpu-a.json", {"machine": MACHINE, "sources": "these", "settings": {"runs": 1}}
    store = Store.resume("gpu", identity, {}, path=path)
    store.put_rows([row_of(("stpm", 1, EAGER), COMPARED)])
    again = Store.resume("gpu", identity | change, {}, path=path)
    assert again.rows == ({} if change else store.rows)
    assert path.with_name("gpu-a.json.old").is_file() == bool(change)


def test_keys_without_a_row_or_without_times_are_missing(store: Store) -> None:
    keys = [("stpm", batch, EAGER) for batch in (1, 8, 32)]
    store.put_rows([row_of(keys[0], COMPARED), row_of(keys[1], FAILED)])
    assert store.missing(keys, timed=False) == keys[2:]
    assert store.missing(keys, timed=True) == [keys[0], keys[2]]
