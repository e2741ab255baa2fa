"""Published data sets at the command line: --category."""

from __future__ import annotations

import pytest

from kd_train.datasets import open_data


@pytest.fixture
def root(write, tmp_path):
    """Two products of BTAD in the tiny detector's size."""
    home = tmp_path / "btad"
    for category in ("01", "02"):
        for part, count in (("train/ok", 6), ("test/ok", 3), ("test/ko", 3)):
            for index in range(count):
                write(home / f"{category}/{part}/{index:04d}.bmp", size=(64, 64))
        for index in range(3):
            write(home / f"{category}/ground_truth/ko/{index:04d}.png", size=(64, 64), is_mask=True)
    return home


def test_evaluate(cli, tiny_bundle, root):
    result = cli("evaluate", tiny_bundle, root, "--category", "02", "--json").json
    assert (result["good"], result["defective"]) == (3, 3)
    assert list(result["types"]) == ["ko"]
    assert result["pixel_auroc"] is not None
    assert "test/ko/0000.bmp" in result["scores"]


def test_evaluate_shows_the_category(cli, tiny_bundle, root):
    assert f"{root} 02, percent" in cli("evaluate", tiny_bundle, root, "--category", "02").stdout


def test_calibrate(cli, bundle_copy, root):
    result = cli("calibrate", bundle_copy, root, "--category", "01", "--false-reject-rate", 0.3, "--json").json
    # The bundle was trained on some of the same cells.
    assert result["threshold"]["images"] + result["passed_over_trained_on"] == len(open_data(root, "01").good)


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_category_is_needed(cli, bundle_copy, root, command):
    stderr = cli(command, bundle_copy, root, code=2).stderr
    assert "2 categories of BTAD" in stderr
    assert "fix: name one: --category 01" in stderr


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_unknown_layout(cli, bundle_copy, tmp_path, command):
    (tmp_path / "films").mkdir()
    stderr = cli(command, bundle_copy, tmp_path / "films", code=2).stderr
    assert "no images were found" in stderr
    assert "BTAD: 01, 02, 03" in stderr
