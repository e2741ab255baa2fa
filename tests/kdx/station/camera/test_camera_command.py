"""``kdx watch --camera`` as a process: killed, reconnected, with options that do not fit."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdx.station.ledger import Ledger
from tests.kdx.station.camera.clips import GOOD, damage, parts, write_clip
from tests.kdx.station.stations import lines, sorted_files
from tests.kdx.station.test_watching import ON_CPU
from tests.schema1 import old_bundle

pytest.importorskip("av", reason="the extra camera is not installed")
posix = pytest.mark.skipif(sys.platform == "win32", reason="the tests send signals as POSIX has them")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a bundle, and a video of 12 parts, of which one is defective."""
    old_bundle("stpm", tmp_path).rename(tmp_path / "tile.kdx")
    write_clip(tmp_path / "clip.mkv", parts(12))
    return tmp_path


def arguments(place: Path, *more: str, camera: str | None = None) -> list[str]:
    named = camera or str(place / "clip.mkv")
    return [
        "watch",
        "--camera",
        named,
        "--bundle",
        str(place / "tile.kdx"),
        "--out",
        str(place / "out"),
        *ON_CPU,
        *more,
    ]


@contextlib.contextmanager
def watching(place: Path, *more: str, camera: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run kdx watch; its records are read from its standard output."""
    command = [sys.executable, "-m", "kdx", *arguments(place, "--json", *more, camera=camera)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            yield process
        finally:
            process.kill()


def test_every_frame_of_a_video_is_judged_once(place, cli):
    done = cli(*arguments(place, "--once", "--move", "--heat-maps", "--csv", "--part-id", r"-(?P<part>\d+)\."))
    assert "frames: 11 good, 1 defective" in done.stderr
    records = lines(place / "out")
    assert [(record["camera"], record["frame"]) for record in records] == [("clip", number) for number in range(12)]
    assert [record["part_id"] for record in records] == [f"{number:08d}" for number in range(12)]
    assert [record["image"] for record in records if record["verdict"] == "defective"] == ["clip-00000009.png"]
    places = [f"{record['verdict']}/{record['image']}" for record in records]
    assert sorted_files(place / "out") == sorted([*places, *(f"heat_maps/{name}.png" for name in places)])
    np.testing.assert_array_equal(np.asarray(Image.open(place / "out/good/clip-00000003.png")), GOOD)
    assert "no frame was judged" in cli(*arguments(place, "--once", "--move")).stderr


def test_frames_that_are_not_kept_leave_nothing(place, cli):
    cli(*arguments(place, "--once"))
    assert list((place / "out/camera").iterdir()) == []
    assert sorted_files(place / "out") == []
    with contextlib.closing(Ledger(place / "out/station.db")) as ledger:
        assert ledger.known() == {}


def test_a_frame_that_cannot_be_decoded_is_undecided_and_counted(place, cli):
    write_clip(place / "clip.avi", parts(5), "mjpeg", "yuvj420p")
    damage(place / "clip.avi", 2)
    done = cli(*arguments(place, "--once", "--move", camera=str(place / "clip.avi")))
    assert "undecided  clip frame 2  frame 2 of" in done.stdout
    assert "1 undecided (1 incomplete_frame)" in done.stderr
    record = lines(place / "out")[2]
    assert (record["verdict"], record["reason"], record["frame"]) == ("undecided", "incomplete_frame", 2)
    assert record["error"]["type"] == "FrameError"
    assert not (place / "out/undecided").exists()  # there is no image of it


def test_a_cut_end_of_a_video_has_one_record_across_calls(place, cli):
    """Its number is that of the first frame that is missing."""
    data = (place / "clip.mkv").read_bytes()
    (place / "clip.mkv").write_bytes(data[: len(data) // 2])
    assert "is cut: frames are missing" in cli(*arguments(place, "--once")).stderr
    before = lines(place / "out")
    assert [record["frame"] for record in before] == list(range(len(before)))
    assert [record.get("reason") for record in before] == [None] * (len(before) - 1) + ["lost_frame"]
    assert "no frame was judged" in cli(*arguments(place, "--once")).stderr
    assert lines(place / "out") == before


@posix
@pytest.mark.parametrize("after", [0, 3])
def test_a_kill_loses_and_doubles_no_frame_of_a_video(place, cli, after):
    with watching(place, "--queue", "4") as process:
        assert process.stdout is not None
        for _ in range(after + 1):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    cli(*arguments(place, "--once"))
    records = lines(place / "out")
    assert [record["frame"] for record in records] == list(range(12))
    assert {record["verdict"] for record in records} == {"good", "defective"}
    assert list((place / "out/camera").iterdir()) == []


@contextlib.contextmanager
def sending(content: bytes) -> Iterator[tuple[str, threading.Event]]:
    """Serve a stream over HTTP that ends and can be opened again, unless it is to be refused."""
    refuses = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            self.send_response(404 if refuses.is_set() else 200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/cam", refuses
        finally:
            server.shutdown()
            thread.join()


@posix
def test_a_stream_that_breaks_off_is_said_and_recorded_and_comes_back(place):
    content = write_clip(place / "clip.avi", parts(3), "mjpeg", "yuvj420p").read_bytes()
    with sending(content) as (url, _), watching(place, camera=url) as process:
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline()) for _ in range(7)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        said = process.stderr.read()
    fates = [(record.get("frame"), record["verdict"], record.get("reason")) for record in found]
    frames = [(number, "good", None) for number in range(3)]
    assert fates == [*frames, (None, "undecided", "camera_gone"), *frames]
    assert ": no frames are judged until it is back" in said
    assert "is back" in said


@posix
def test_what_is_secret_of_a_stream_reaches_neither_records_nor_the_ledger_nor_what_is_said(place, monkeypatch):
    content = write_clip(place / "clip.avi", parts(1), "mjpeg", "yuvj420p").read_bytes()
    monkeypatch.setenv("KDX_CAMERA_PASSWORD", "s3cret")
    with sending(content) as (url, refuses):
        secret = url.replace("://", "://user@") + "?pwd=s3cret"
        with watching(place, camera=secret) as process:
            assert process.stdout is not None
            shown = process.stdout.readline()
            refuses.set()
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
            shown += process.stdout.read() + process.stderr.read()
        again = subprocess.run(
            [sys.executable, "-m", "kdx", *arguments(place, camera=secret)], capture_output=True, check=False
        )
    assert again.returncode == 2
    kept = b"".join(path.read_bytes() for path in (place / "out").rglob("*") if path.is_file())
    assert b"s3cret" not in kept + shown.encode() + again.stdout + again.stderr


def test_a_camera_that_does_not_answer_is_an_error_at_the_start(place, cli):
    with sending(b"") as (url, refuses):
        refuses.set()
        assert "cannot be opened" in cli(*arguments(place, camera=url), code=2).stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "a FOLDER is watched, or the frames of a --camera are judged"),
        (["--camera", "CLIP", "IN"], "a FOLDER is watched, or the frames of a --camera are judged"),
        (["IN", "--queue", "3"], "--queue would change nothing without --camera"),
        (["--camera", "CLIP", "--link"], "--link would change nothing without a FOLDER"),
        (["--camera", "CLIP", "--settle", "3"], "--settle would change nothing without a FOLDER"),
        (["--camera", "CLIP", "--settle", "0"], "--settle would change nothing without a FOLDER"),
        (["--camera", "CLIP", "--scan-every", "3"], "--scan-every would change nothing without a FOLDER"),
        (["--camera", "CLIP", "--part-of", "x", "--views", "a"], "--part-of would change nothing without a FOLDER"),
        (["--camera", "rtsp://h/c", "--once"], "--once would change nothing: a camera does not end"),
        (["--camera", "CLIP", "--keep", "good=7d"], "--keep would delete nothing: frames are removed"),
        (["--camera", "nothing.mp4"], "there is no video 'nothing.mp4'"),
    ],
)
def test_options_that_do_not_fit_are_refused(place, cli, more, message):
    (place / "in").mkdir()
    names = {"CLIP": str(place / "clip.mkv"), "IN": str(place / "in")}
    words = [names.get(word, word) for word in more]
    refused = cli("watch", *words, "--bundle", place / "tile.kdx", "--out", place / "out", *ON_CPU, code=2)
    assert message in refused.stderr


def test_frames_that_the_bundle_does_not_take_are_refused_before_the_first(place, cli):
    write_clip(place / "wide.mkv", [np.zeros((48, 80), np.uint8)])
    refused = cli(*arguments(place, "--once", camera=str(place / "wide.mkv")), code=2)
    assert "80 × 48 pixels" in refused.stderr
    assert "64 × 64 pixels" in refused.stderr
    assert not (place / "out/verdicts").exists()


def test_the_output_of_another_video_is_refused(place, cli):
    cli(*arguments(place, "--once"))
    write_clip(place / "clip.mkv", parts(3))  # replaced: its frames have the numbers of others
    assert "holds the records of another camera or video" in cli(*arguments(place, "--once"), code=2).stderr
