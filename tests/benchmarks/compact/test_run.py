"""The command of the compact pairs, which is that of accuracy with other settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.accuracy.settings import Settings
from benchmarks.commands import ROOT
from benchmarks.compact.run import main


def test_its_own_settings_are_measured(tmp_path: Path, monkeypatch) -> None:
    words = [str(tmp_path), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "compact.json")]
    monkeypatch.setattr(sys, "argv", ["python -m benchmarks compact", *words, "--only", "latency"])
    main()
    record = json.loads((tmp_path / "compact.json").read_text(encoding="utf-8"))
    settings = Settings.read(ROOT / "benchmarks" / "compact" / "settings.toml")
    assert (record["benchmark"], record["pairs"]) == ("compact", list(settings.pairs))
    assert record["found"]["latency"] == []  # nothing is trained
