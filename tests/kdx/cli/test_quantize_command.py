"""``kdx quantize``, both stages of a training, and what other commands say of an INT8 stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
QUICK = ("--epochs", 1, "--workers", 0, "--device", "cpu")


@pytest.fixture(scope="module")
def quantised(cli, tiny_run, tmp_path_factory) -> Path:
    """A run with an INT8 stage that no test may change."""
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("quantised") / "run"))
    said = cli("quantize", run, *QUICK)
    assert f"{run}/int8: stpm, test_resnet (random), INT8" in said.stdout
    assert "operations quantised; scales from 6 good images and 18 drawn defects" in said.stdout
    assert "defects, clipped at their limits" in said.stdout
    assert "6 images trained on, 6 held out" in said.stdout
    assert "epoch 1: training loss" in said.stdout
    return run


def test_the_record_of_a_stage(cli, quantised, tmp_path):
    run = shutil.copytree(quantised, tmp_path / "run")
    record = cli("quantize", run, *QUICK, "--headroom", 2, "--force", "--json").json
    assert record["run"] == str(run / "int8")
    assert (record["epochs"], record["train_images"], record["remarks"]) == (1, 6, [])
    assert {name: record["quantized"][name] for name in ("headroom", "images", "defects")} == {
        "headroom": 2.0, "images": 6, "defects": 18,
    }  # fmt: skip


def test_both_stages_of_a_training_are_printed(cli, dataset, tiny_options, tmp_path):
    run = tmp_path / "run"
    options = ("--epochs", 1, *tiny_options, "--precision", "int8")
    record = cli("train", dataset, "-o", run, *options, "--json").json
    assert (record["run"], record["int8"]["run"]) == (str(run), str(run / "int8"))
    assert (record["epochs"], record["int8"]["epochs"]) == (1, 8)
    again = cli("train", dataset, "-o", run, *options, "--resume").stdout
    assert f"{run}: stpm, test_resnet" in again
    assert f"{run}/int8: stpm, test_resnet" in again
    assert "resumed after epoch 8" in again


def test_a_stage_is_evaluated_like_a_run(cli, quantised, dataset):
    both = [cli("evaluate", run, dataset, "--json").json for run in (quantised, quantised / "int8")]
    assert [len(one["scores"]) for one in both] == [8, 8]
    assert both[0]["scores"] != both[1]["scores"]
    stderr = cli("evaluate", quantised / "int8", dataset, "--precision", "int8", code=2).stderr
    assert "a run folder runs as it was trained" in stderr
    assert "leave out --precision" in stderr
    image = next((dataset / "test/good").iterdir())
    for run, precision in ((quantised, "fp32"), (quantised / "int8", "int8")):
        assert cli("predict", run, image, "--json").json["precision"] == precision


def test_a_stage_is_not_exported_by_itself(cli, quantised, tmp_path):
    stderr = cli("export", quantised / "int8", "-o", tmp_path / "tile.kdx", code=2).stderr
    assert f"export the run around it, '{quantised}'" in stderr


def test_messages_name_the_flags_of_the_command(cli, quantised, dataset, tiny_options):
    stderr = cli("quantize", quantised, *QUICK, code=2).stderr
    assert "it is finished, and nothing is left to continue: pass --force to replace it" in stderr
    assert "`" not in stderr
    stderr = cli("quantize", quantised / "int8", *QUICK, code=2).stderr
    assert f"name the run folder around it, '{quantised}'" in stderr
    stderr = cli("train", dataset, "-o", quantised / "int8", *tiny_options, "--force", code=2).stderr
    assert f"continue it: kdx quantize {quantised} --resume --epochs 1" in stderr
