"""A kill at any step: every frame of a video has one record, those without an image too."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdx.station.camera import grabbing
from kdx.station.camera.address import CameraAddress
from kdx.station.camera.frames import Frame
from kdx.station.database import FILE
from kdx.station.in_hand import InHand
from kdx.station.judging import Judge
from kdx.station.ledger import Ledger
from kdx.station.names import name_pattern
from kdx.station.options import WatchOptions
from kdx.station.station import Station
from tests.kdx.station.camera.clips import GOOD, ScriptedCamera
from tests.kdx.station.killed import in_child
from tests.kdx.station.stations import Box, lines, outbox

CLIP = CameraAddress("clip.mkv", "video", "clip.mkv", "clip")
WITHOUT_IMAGE = {1, 2, 3, 5, 6}
FRAMES = [Frame(n, None, "it is damaged") if n in WITHOUT_IMAGE else Frame(n, GOOD) for n in range(8)]
EVERY = 5


class NoBundles:
    """No bundle belongs to any part: all frames are undecided."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def of(self, _: str | None) -> None:
        return None


def judge(out: Path) -> None:
    """Judge what is left of the video."""
    out.mkdir(exist_ok=True)
    options = WatchOptions(
        folder=out / "camera", out=out, bundles={}, files="remove", once=True, camera=CLIP, queue=2,
        pattern=name_pattern(r"-(?P<part>[0-9]+)\."),
    )  # fmt: skip
    ledger, bundles = Ledger(out / FILE, create=True), NoBundles()
    with grabbing.Grabbing(options, CLIP, ledger, bundles, lambda _: None) as source:  # type: ignore[arg-type]
        judging = Judge(options.folder, bundles, options.pattern, InHand(out), heat_maps=False, are_frames=True)  # type: ignore[arg-type]
        station = Station(options, ledger, bundles, judging, [Box()], lambda _: None, source.spool)  # type: ignore[arg-type]
        assert all(record.verdict == "undecided" for record in station.records())
    ledger.close()


@pytest.mark.skipif(sys.platform == "win32", reason="the test forks processes and kills them")
def test_a_kill_at_any_step_loses_and_doubles_no_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grabbing, "open_camera", lambda _, first=0, **__: ScriptedCamera(FRAMES[first:]))
    memory = Path("/dev/shm")  # where waiting for the disk takes no time
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as work:
        assert kill_everywhere(Path(work)) > 50


def kill_everywhere(work: Path) -> int:
    """Kill a station every few steps, and let another one finish; return how many steps it has."""
    last, steps = 1 - EVERY, None
    while steps is None:
        last += EVERY
        out = work / f"out-{last}"
        steps = in_child(lambda out=out: judge(out), last)  # type: ignore[misc]
        judge(out)
        records = lines(out)
        assert [record["frame"] for record in records] == list(range(8)), f"killed at step {last}"
        assert [record["part_id"] for record in records] == [f"{number:08d}" for number in range(8)]
        assert [each["verdict_id"] for each in outbox(out)] == [each["verdict_id"] for each in records]
        assert list((out / "camera").iterdir()) == []
    return steps
