"""A settings file of one miniature data set, and the command's options for it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.frontier.run import options_parser

SETTINGS = """
false_reject_rate = 0.2
precisions = ["fp32", "int8", "students"]
seeds = [0, 1]

[pairs]
leader = { recipe = "leader", options = { backbone = "test_resnet" } }
small = { recipe = "compact", options = { backbone = "compact-s", teacher_from = "test_resnet" } }

[data_sets.cells]
title = "Cells"
options = { weights = "random", image_size = 64, batch_size = 4, validation_fraction = 0.5, workers = 0 }
recipes.leader = { epochs = 2 }
recipes.compact = { taps = "layer1,layer2", epochs = 2, teacher_epochs = 1, damage = 0.5 }
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS, encoding="utf-8")
    return path


@pytest.fixture
def given(tmp_path: Path, dataset: Path) -> list[str]:
    """Where the data and the result are, as words of the command."""
    return [str(dataset.parent), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "accuracy.json")]


@pytest.fixture
def parse(given: list[str], settings: Path) -> Callable[..., Namespace]:
    return lambda *more: options_parser("accuracy").parse_args([*given, "--settings", str(settings), *more])
