"""The benchmark of training: its order, what counts, and the smallest network on the CPU."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.training import run


def call(monkeypatch, out, *words: str) -> list[tuple[str, bool]]:
    """Return the trainings of a benchmark with a GPU whose first epochs take a minute each."""
    ran = []

    def train(*command, threads):
        device = command[command.index("--device") + 1]
        ran.append((device, "--mixed-precision" in command))
        folder = command[command.index("-o") + 1]
        history = json.dumps({"history": [{"seconds": 60.0}, {"seconds": 1.5}, {"seconds": 2.5}]})
        for file in (folder / "teacher" / "last.json", folder / "last.json"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(history, encoding="utf-8")
        names = (("compact teacher", 100), ("training", 40))
        return {"profile": {"epochs": [{"training": name, "images": count} for name, count in names]}}

    monkeypatch.setattr(run, "kdx", train)
    monkeypatch.setattr(run.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run.torch.cuda, "get_device_name", lambda: "a GPU")
    given = ["DATA", "--work", str(out.parent), "--out", str(out), *words]
    monkeypatch.setattr(sys, "argv", ["python -m benchmarks training", *given])
    run.main()
    return ran


def test_the_gpu_comes_first_and_first_epochs_do_not_count(tmp_path, monkeypatch) -> None:
    out = tmp_path / "training.json"
    assert call(monkeypatch, out) == [("cuda", False), ("cuda", True), ("cpu", False)]
    rows = json.loads(out.read_text(encoding="utf-8"))["found"]["rows"]
    assert [row["images_per_second"] for row in rows] == [{"compact teacher": 50.0, "training": 20.0}] * 3
    assert call(monkeypatch, out, "--devices", "cuda") == [("cuda", False), ("cuda", True)]
    assert call(monkeypatch, out, "--devices", "cpu") == [("cpu", False)]


def test_one_epoch_leaves_none_to_count(tmp_path, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, tmp_path / "training.json", "--epochs", "1")
    assert "the first is not counted" in capsys.readouterr().err


@pytest.mark.slow
def test_each_device_has_a_row_and_those_of_others_stay(cli, dataset, tiny_options, tmp_path, monkeypatch, capsys):
    options = (*tiny_options[2:], "--backbone", "compact-s", "--teacher-from", "test_resnet", "--teacher-epochs", "2")
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
