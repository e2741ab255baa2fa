"""What is recorded of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdx.runtime.machine import cpu_features, describe_machine


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("model name\t: A CPU\nflags\t\t: fpu avx2 avx512_vnni avx512f\n", ["avx2", "avx512_vnni", "avx512f"]),
        ("model name\t: A CPU\nflags\t\t: fpu avx2\n", ["avx2"]),
        ("model name\t: A CPU\nFeatures\t: fp asimddp bf16 i8mm\n", ["asimddp", "bf16", "i8mm"]),
    ],
)
def test_cpus_of_one_name_differ_in_their_features(text: str, features: list[str], monkeypatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert cpu_features() == features
    assert describe_machine(1, {}).cpu == "A CPU"


def test_where_nothing_is_known_there_are_no_features(monkeypatch) -> None:
    def absent(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert cpu_features() == []
    assert describe_machine(1, {}).cpu
