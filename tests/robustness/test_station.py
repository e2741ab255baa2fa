"""A station as a miniature: no part is lost or doubled, and no answer differs."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import pytest

from benchmarks.commands import run_module
from tests.schema1 import FIXTURES, old_bundle

PARTS, REQUESTS, CLIENTS = 80, 500, 4
IMAGES = ("cell-0", "cell-1", "cell-hottest")


def require(found: dict[str, Any], parts: int) -> None:
    """Require what holds of the trials at any size."""
    watch, serve, load = found["watch"], found["serve"], found["load"]
    assert watch["with_one_record"] == watch["files_sorted"] == serve["with_one_record"] == parts
    assert watch["received"] == [parts] * 2
    assert serve["in_report"] == serve["reviews"] == 10
    assert load["differing"] == 0
    assert load["wrong_refused"] > 0
    assert [each["exit_status"] for each in (watch, serve, load)] == [0, 0, 0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces of mounts")
def test_a_miniature_loses_and_doubles_nothing(tmp_path):
    """Parts wait for the station, which may take any time."""
    pytest.importorskip("amqtt", reason="the broker amqtt is not installed")
    bundle = old_bundle("stpm", tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    for name in IMAGES:
        shutil.copy(FIXTURES / f"images/{name}.png", images)
    found: dict[str, Any] = {}
    for trial in ("watch", "serve", "load"):
        found[trial] = run_module("tests.robustness.tools.station", trial, images, bundle, PARTS, 0, REQUESTS, CLIENTS)
        if "unable" in found[trial]:
            pytest.skip(f"no disk can be mounted here: {found[trial]['unable']}")
    require(found, PARTS)
    assert found["serve"]["shown"] == PARTS
