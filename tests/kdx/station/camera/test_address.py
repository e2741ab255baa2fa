"""What users name cameras by; a password reaches no message, no record and no ledger."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from kdx.errors import DataError, OptionError, OutputError
from kdx.station.broker import parse_broker
from kdx.station.camera.address import PASSWORD, parse_camera
from kdx.station.database import FILE
from kdx.station.ledger import Ledger
from kdx.station.options import WatchOptions
from kdx.station.plc.address import parse_plc
from kdx.station.watching import _require_same_folder


def test_files_and_devices_that_are_not_there_are_refused():
    with pytest.raises(DataError, match=r"there is no video 'b\.mp4'"):
        parse_camera("b.mp4")
    with pytest.raises(DataError, match="there is no device '/dev/video99'"):
        parse_camera("/dev/video99?framerate=30")


@pytest.mark.parametrize("text", ["rtsp:///cam", "ftp://host/cam", "rtmp://admin@host/cam?pwd=secret", "http://h:x/"])
def test_addresses_that_name_no_camera_are_refused(text):
    with pytest.raises(OptionError, match="does not name a camera") as caught:
        parse_camera(text)
    assert "secret" not in str(caught.value)
    assert "admin" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://admin:secret@host/cam",
        "rtsp://admin:se/cret@host/cam",
        "rtsp://admin:se#cret@host/cam",
        "rtsp://admin:se?cret@host/cam",
        "rtsp://admin:12/secret@host:554/cam",
        "rtsp://ad@min:secret@host/cam",
        "rtmp://admin:secret@host/cam",
        "rtsp:/admin:secret@host/cam",
        "admin:secret@host/cam",
    ],
)
def test_a_password_in_an_address_is_refused_and_never_shown(text):
    with pytest.raises(OptionError, match="holds a password") as caught:
        parse_camera(text)
    assert "cret" not in str(caught.value)


def test_an_address_without_a_password_is_taken():
    for text in ("rtsp://user@[::1]:554/cam", "rtsp://host/user@cam", "http://host:80/a%40b?t=1:2"):
        assert parse_camera(text).path == text
    with pytest.raises(OptionError, match="write an @ of the path as %40"):
        parse_camera("http://host:80/a@b")


def test_a_file_may_have_any_name(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("line:3@top.mp4").touch()
    assert parse_camera("line:3@top.mp4").kind == "video"


def test_user_and_query_of_a_stream_are_only_in_what_is_opened():
    address = parse_camera("http://admin@10.0.0.7/mjpg?user=admin&pwd=secret")
    assert address.text == "http://10.0.0.7/mjpg"
    assert address.url() == "http://admin@10.0.0.7/mjpg?user=admin&pwd=secret"
    for shown in (repr(address), address.identity, address.name):
        assert "admin" not in shown
        assert "secret" not in shown


def test_the_channels_of_a_recorder_are_different_cameras():
    identities = {parse_camera(f"rtsp://user@host/cam?channel={channel}").identity for channel in (1, 2)}
    assert len(identities) == 2
    assert parse_camera("rtsp://other@host/cam").identity == "camera rtsp://host/cam"


def test_a_password_comes_from_the_environment_and_is_never_shown(monkeypatch):
    monkeypatch.setenv(PASSWORD, "se cret/")
    address = parse_camera("rtsp://user@host:8554/cam?x=1")
    assert address.url() == "rtsp://user:se%20cret%2F@host:8554/cam?x=1"
    assert "cret" not in repr(address)
    assert address.name == "host-8554"
    with pytest.raises(OptionError, match="names no user"):
        parse_camera("rtsp://host/cam")


@pytest.mark.parametrize("text", ["clip.mp4", "/dev/video0", "genicam:producer.cti"])
def test_a_password_that_no_camera_takes_is_refused(text, monkeypatch):
    monkeypatch.setenv(PASSWORD, "secret")
    with pytest.raises(OptionError, match=f"the password in {PASSWORD} has no effect") as caught:
        parse_camera(text)
    assert "secret" not in str(caught.value)


def test_features_keep_their_order_and_are_repeated():
    """A selector says which of several values the next feature is."""
    given = (
        ("serial", "7"),
        ("BalanceRatioSelector", "Red"),
        ("BalanceRatio", "1.2"),
        ("BalanceRatioSelector", "Blue"),
        ("BalanceRatio", "1.5"),
    )
    address = parse_camera("genicam:a.cti?" + "&".join("=".join(pair) for pair in given))
    assert address.settings == given
    assert (address.serial, address.name) == ("7", "7")
    with pytest.raises(OptionError, match="gives 'serial' several times"):
        parse_camera("genicam:a.cti?serial=1&Width=8&serial=2")


def test_a_setting_of_a_device_that_would_be_replaced_is_refused(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert parse_camera("/dev/video0?framerate=30").settings == (("framerate", "30"),)
    with pytest.raises(OptionError, match="gives 'framerate' several times"):
        parse_camera("/dev/video0?framerate=30&framerate=60")


def test_a_camera_with_another_setting_is_the_same(monkeypatch, tmp_path):
    """Also where an earlier version stored the settings of the day."""
    monkeypatch.setattr(Path, "exists", lambda _: True)
    with closing(Ledger(tmp_path / FILE, create=True)) as ledger:
        for given, before, other in (
            ("genicam:a.cti?serial=7&Gain={}", "genicam:a.cti?Gain=3&serial=7", "genicam:a.cti?serial=8&Gain=1"),
            ("/dev/video0?framerate={}", "/dev/video0?framerate=3", "/dev/video1?framerate=1"),
        ):
            options = [
                WatchOptions(folder=tmp_path, out=tmp_path, bundles={}, camera=parse_camera(text))
                for text in (given.format(1), given.format(2), other)
            ]
            for identity in (options[0].camera.identity, f"camera {before}"):
                ledger.set_fact("folder", identity.encode())
                for each in options[:2]:
                    _require_same_folder(ledger, each)
                with pytest.raises(OutputError, match="another camera"):
                    _require_same_folder(ledger, options[2])


@pytest.mark.parametrize("parse", [parse_camera, parse_broker, parse_plc])
@pytest.mark.parametrize("scheme", ["rtsp", "mqtt", "modbus", "opc.tcp", "tcp"])
@pytest.mark.parametrize("rest", ["", "/t", ":99999/1", ":x/1", "/1?unit=2", "/1#2", "/a/+/b", "/1?password=secret"])
def test_no_option_shows_the_password_of_a_url_that_it_refuses(parse, scheme, rest):
    for url in (f"{scheme}://user:secret@host{rest}", f"{scheme}:/user:secret@host{rest}"):
        with pytest.raises((OptionError, DataError)) as caught:
            parse(url)
        assert "secret" not in f"{caught.value} {caught.value.as_dict()}"


@pytest.mark.parametrize(
    "words",
    [
        ["watch", "rtsp://user:secret@host/cam", "-b", "a.kdx", "-o", "OUT"],
        ["watch", "in", "rtsp://user:secret@host/cam", "-b", "a.kdx", "-o", "OUT"],
        ["watch", "--camera", "clip.mp4", "--queue", "rtsp://user:secret@host/cam", "-b", "a.kdx", "-o", "OUT"],
        ["predict", "a.kdx", "rtsp://user:secret@host/cam"],
        ["serve", "rtsp://user:secret@host/cam", "--port", "0"],
        ["serve", "a.kdx", "--plc", "http://user:secret@host/1"],
        ["inspect", "http://user:secret@host/tile.kdx"],
    ],
)
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_no_command_shows_the_password_of_a_url_that_it_cannot_use(words, more, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = cli(*words, *more, code=2)
    shown = "".join(f"{refused.stdout}{refused.stderr}".split())  # a box breaks lines
    assert shown
    assert "secret" not in shown
