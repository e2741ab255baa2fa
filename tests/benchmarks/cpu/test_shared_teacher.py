"""Shared teachers judge as separate ones do, and memory is counted. Nothing is timed."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from tests.students import other_bundle, other_student

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
from benchmarks.cpu import shared_teacher
from benchmarks.cpu.shared_teacher import SEPARATE, SHARED


@pytest.fixture
def order(tiny_bundle, tmp_path) -> dict:
    second = other_bundle(tiny_bundle, tmp_path / "second.kdx", functools.partial(other_student, seed=0))
    return {"bundles": {"first": str(tiny_bundle), "second": str(second)}, "precision": "fp32", "threads": 1}


def test_separate_and_shared_teachers_judge_alike(order, frame) -> None:
    arguments = {**order, "bundles": json.dumps(order["bundles"])}
    scores = [
        shared_teacher.load_judge({**arguments, "sharing": sharing})(frame[None]) for sharing in (SEPARATE, SHARED)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    assert len(set(scores[0])) == 2


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux counts memory there")
def test_what_a_process_holds_is_counted(order) -> None:
    for sharing in (SEPARATE, SHARED):
        held = shared_teacher.hold({**order, "sharing": sharing})
        assert set(held) == {"rss_mb", "pss_mb", "load_s"}
        assert held["rss_mb"] > 1
