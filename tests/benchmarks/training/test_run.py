"""The benchmark of training, on the CPU, with the smallest network."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.training import run


@pytest.mark.slow
def test_each_device_has_a_row_and_those_of_others_stay(cli, dataset, tiny_options, tmp_path, monkeypatch, capsys):
    options = (*tiny_options[2:], "--backbone", "compact-s", "--teacher-from", "test_resnet", "--teacher-epochs", "1")
    monkeypatch.setattr(run, "OPTIONS", options)
    out = tmp_path / "training.json"
    words = ["--epochs", "2", "--threads", "1", "--work", str(tmp_path / "work"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["python -m benchmarks training", str(dataset), *words])
    monkeypatch.setattr(run.torch.cuda, "is_available", lambda: False)
    trained = []

    def train(*command, threads):
        assert threads == 1
        trained.append(trained[0] if trained else cli(*command, "--json").json)  # the second call takes the first's
        return trained[-1]

    monkeypatch.setattr(run, "kdx", train)
    run.main()
    record = json.loads(out.read_text(encoding="utf-8"))
    [row] = record["found"]["rows"]
    assert all(speed > 0 for speed in row["images_per_second"].values())
    record["found"]["rows"].append({**row, "device": "a GPU", "mixed_precision": True})
    out.write_text(json.dumps(record), encoding="utf-8")
    run.main()
    rows = json.loads(out.read_text(encoding="utf-8"))["found"]["rows"]
    assert [(each["device"], each["mixed_precision"]) for each in rows] == sorted(
        [(row["device"], False), ("a GPU", True)]
    )
    shown = capsys.readouterr().out
    assert "| a GPU | BF16 |" in shown
    assert f"| {row['device']} | FP32 |" in shown
