"""A trigger over HTTP is answered with the verdict on its frame, or the part is undecided."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdx.station.camera.frames import CameraGoneError, Frame
from tests.kdx.station.camera.clips import DEFECTIVE, GOOD, ScriptedCamera, write_clip
from tests.schema1 import old_bundle
from tests.serving import Answer, Client, figure, served

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("av", reason="the extra camera is not installed")

from kdx.station.camera import held
from kdx.station.camera.address import CameraAddress
from kdx.station.serve import camera as module
from kdx.station.serve.camera import TriggeredCamera

ADDRESS = CameraAddress("clip.mkv", "video", "clip.mkv", "top")
SECONDS = 2.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    old_bundle("stpm", folder).rename(folder / "tile.kdx")
    write_clip(folder / "clip.mkv", [GOOD, DEFECTIVE])
    return folder


@pytest.fixture
def server(place: Path, tmp_path: Path) -> Iterator[Any]:
    with served(place / "tile.kdx", camera=str(place / "clip.mkv"), data=tmp_path / "reviews") as running:
        yield running


def triggered(server: Any, path: str = "/v1/trigger", body: Any = None) -> Answer:
    return Client(server.url).post(path, body, {})


def test_each_trigger_gets_the_verdict_on_its_own_frame_and_one_without_a_frame_is_undecided(server, tmp_path):
    good = triggered(server, "/v1/bundles/tile/trigger?part_id=4711")
    defective = triggered(server, "/v1/trigger?part_id=4712&map=png")
    missed = triggered(server, "/v1/trigger?part_id=4713")
    assert [answer.status for answer in (good, defective, missed)] == [200, 200, 502]
    fates = [(each["part_id"], each["verdict"], each.get("frame")) for each in (good.json, defective.json)]
    assert fates == [("4711", "good", 0), ("4712", "defective", 1)]
    assert (good.json["camera"], defective.json["map"]["format"]) == ("clip", "png")
    record = missed.json["record"]
    assert (record["part_id"], record["verdict"], record["reason"]) == ("4713", "undecided", "missed_trigger")
    assert record["image_sha256"] is None
    assert figure(server, "kdx_serve_missed_total") == 1
    (shown,) = server._page._live.shift().bundles
    assert (shown.counts["good"], shown.counts["defective"], shown.counts["undecided"]) == (1, 1, 1)
    # The frame that was not good is kept for review, and nothing for the one that did not come.
    server._page._reviews.waiting().result()
    (kept,) = [path for path in (tmp_path / "reviews").rglob("*.png") if not path.name.endswith(".heat.png")]
    np.testing.assert_array_equal(np.asarray(Image.open(kept)), DEFECTIVE)


def test_the_page_has_no_picture_of_a_frame_that_did_not_come(server):
    for _ in range(3):
        missed = triggered(server)
    identifier = missed.json["record"]["verdict_id"]
    assert Client(server.url).get(f"/live/verdicts/{identifier}/image").status == 404


def test_a_trigger_with_an_image_is_refused(server):
    answer = triggered(server, body=b"an image")
    assert (answer.status, answer.json["detail"]) == (400, "a trigger has no body: the camera takes the image")
    assert triggered(server, "/v1/bundles/none/trigger").status == 404


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/json", "application/octet-stream"])
def test_the_content_type_of_a_trigger_says_nothing(server, kind):
    """Programs send one with an empty body: ``curl -d ''``."""
    answer = Client(server.url).post("/v1/trigger", None, {"Content-Type": kind})
    assert (answer.status, answer.json["verdict"]) == (200, "good")


def test_a_trigger_takes_no_layout_and_no_frame_is_taken_for_one(server):
    for path, headers in (("/v1/trigger?shape=64,64", {}), ("/v1/trigger", {"X-Shape": "64,64"})):
        answer = Client(server.url).post(path, None, {"Content-Type": "application/octet-stream", **headers})
        assert (answer.status, answer.json["detail"]) == (
            400, "`shape` has no effect on a trigger: the camera takes the image",
        )  # fmt: skip
    assert triggered(server).json["frame"] == 0


def test_a_frame_that_the_bundle_does_not_take_is_undecided(place, monkeypatch):
    """Its part has been seen, and nobody can send it again."""
    camera = ScriptedCamera([Frame(7, np.zeros((48, 80), np.uint8)), AttributeError("of the driver")])
    monkeypatch.setattr("kdx.station.serve.server.open_camera", lambda *_, **__: camera)
    with served(place / "tile.kdx", camera=str(place / "clip.mkv")) as server:
        unfit, broken = (triggered(server, f"/v1/trigger?part_id={part}") for part in (4711, 4712))
        counts = [figure(server, f"kdx_serve_{name}_total") for name in ("missed", "refused")]
        identifier = unfit.json["record"]["verdict_id"]
        assert Client(server.url).get(f"/live/verdicts/{identifier}/image").status == 404
    assert (unfit.status, broken.status, counts) == (502, 502, [2, 0])
    records = unfit.json["record"], broken.json["record"]
    assert [(each["part_id"], each.get("frame"), each["verdict"], each["reason"]) for each in records] == [
        ("4711", 7, "undecided", "incomplete_frame"),
        ("4712", None, "undecided", "missed_trigger"),
    ]
    assert "unexpected AttributeError: of the driver" in records[1]["error"]["message"]


def test_the_extra_of_a_camera_is_named_where_it_is_not_installed(place, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "kdx.station.camera.video", raising=False)
    refused = cli("serve", place / "tile.kdx", "--port", 0, "--camera", place / "clip.mkv", code=None)
    assert 'pip install "kdx[camera,serve]"' in refused.stderr


def test_a_server_without_a_camera_says_so(place):
    with served(place / "tile.kdx") as running:
        answer = triggered(running)
    assert (answer.status, answer.json["detail"]) == (404, "this server has no camera")


def test_a_camera_that_does_not_fit_is_refused_at_the_start(place, cli):
    wide = write_clip(place / "wide.mkv", [np.zeros((48, 80), np.uint8)])
    for source, message in ((str(wide), "80 × 48 pixels"), ("rtsp://h/c", "cannot be triggered")):
        refused = cli("serve", place / "tile.kdx", "--port", 0, "--camera", source, code=2)
        assert message in refused.stderr


class Opening:
    """Opens scripted cameras in turn; an error stands for a camera that cannot be opened."""

    def __init__(self, *cameras: Sequence[Any] | Exception) -> None:
        self._cameras = iter(cameras)
        self.count = 0

    def __call__(self) -> ScriptedCamera:
        self.count += 1
        found = next(self._cameras)
        if isinstance(found, Exception):
            raise found
        return ScriptedCamera(found)


def reasons(camera: TriggeredCamera, count: int) -> list[str | None]:
    shots = [camera.take().result() for _ in range(count)]
    assert all((shot.error is None) == (shot.info.reason is None) == bool(shot.data) for shot in shots)
    return [None if shot.info.reason is None else shot.info.reason.value for shot in shots]


def test_a_camera_that_is_gone_is_opened_again_after_a_pause_and_no_trigger_waits_for_it(monkeypatch):
    opening = Opening([0, CameraGoneError("out")], CameraGoneError("still out"), [7])
    monkeypatch.setattr(held, "FIRST_PAUSE", 1e9)
    camera = TriggeredCamera(ADDRESS, opening, SECONDS)
    assert reasons(camera, 4) == [None, "missed_trigger", "missed_trigger", "missed_trigger"]
    assert opening.count == 1
    camera._held._again = 0.0  # the pause is over
    assert reasons(camera, 2) == ["missed_trigger"] * 2
    assert opening.count == 2
    camera._held._again = 0.0
    assert reasons(camera, 1) == [None]
    camera.close()


def test_a_frame_that_is_late_or_not_whole_is_undecided():
    camera = TriggeredCamera(ADDRESS, Opening([None, Frame(1, GOOD, "rows are missing"), 2]), SECONDS)
    assert reasons(camera, 3) == ["missed_trigger", "incomplete_frame", None]
    camera.close()


def test_a_trigger_that_waited_too_long_for_its_turn_gets_no_frame():
    camera = TriggeredCamera(ADDRESS, Opening([0]), SECONDS)
    shot = camera._take(module.time.monotonic() - SECONDS)
    assert shot.info.reason == "missed_trigger"
    assert reasons(camera, 1) == [None]
    camera.close()


def test_a_camera_that_is_opened_too_slowly_takes_no_frame_of_another_part(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    opening = Opening([CameraGoneError("out")], [7])

    def slow() -> ScriptedCamera:
        camera = opening()
        now[0] += 6.0 * (opening.count > 1)
        return camera

    camera = TriggeredCamera(ADDRESS, slow, SECONDS)
    assert camera._take(0.0).info.reason == "missed_trigger"
    now[0] = 1.0
    shot = camera._take(1.0)
    assert (shot.info.reason, shot.data) == ("missed_trigger", b"")
    assert camera._take(now[0]).info.frame == 7
    camera.close()


def test_the_time_of_a_trigger_is_chosen_within_limits_and_only_with_a_camera(place, cli):
    with served(place / "tile.kdx", camera=str(place / "clip.mkv"), trigger_timeout=0.01) as running:
        running._camera._held.camera.grab = lambda: None
        missed = triggered(running)
    assert (missed.status, missed.json["record"]["reason"]) == (502, "missed_trigger")
    assert missed.json["detail"].startswith("no frame came within 0.01 s")
    words = "serve", place / "tile.kdx", "--port", 0, "--trigger-timeout"
    assert "--trigger-timeout has no effect without --camera" in cli(*words, 3, code=2).stderr
    for seconds in (0, 61):
        refused = cli(*words, seconds, "--camera", place / "clip.mkv", code=2)
        assert "Invalid value for '--trigger-timeout'" in refused.stderr
