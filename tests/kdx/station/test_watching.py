"""``kdx watch`` as a process: killed, stopped, beside another one, with a broker that comes and
goes."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kdx.cli.output import say
from kdx.errors import OutputError
from kdx.station import delivery
from kdx.station.bundles import LoadOptions
from kdx.station.database import FILE
from kdx.station.delivery import Command, Courier
from kdx.station.ledger import Ledger
from kdx.station.options import WatchOptions
from kdx.station.watching import judge_arrivals
from tests.kdx.station.stations import lines, sorted_files
from tests.schema1 import FIXTURES, old_bundle

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the tests send signals as POSIX has them")
ON_CPU = ("--backend", "onnxruntime-cpu", "--precision", "fp32", "--threads", "1")
CELLS = [FIXTURES / f"images/cell-{name}.png" for name in ("1", "hottest")]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a bundle, and the watched folder ``in``."""
    old_bundle("stpm", tmp_path).rename(tmp_path / "tile.kdx")
    (tmp_path / "in").mkdir()
    return tmp_path


def arguments(place: Path, *more: str) -> list[str]:
    folders = [str(place / "in"), "--bundle", str(place / "tile.kdx"), "--out", str(place / "out")]
    return ["watch", *folders, *ON_CPU, *more]


def options_once(place: Path, **more: Any) -> WatchOptions:
    """Return the options of a call in this process that ends when every file is judged."""
    return WatchOptions(
        folder=place / "in",
        out=place / "out",
        bundles={None: place / "tile.kdx"},
        load=LoadOptions(backend="onnxruntime-cpu", threads=1),
        settle=0.0,
        once=True,
        **more,
    )


@contextlib.contextmanager
def watching(place: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Run kdx watch; its records are read from its standard output."""
    command = [sys.executable, "-m", "kdx", *arguments(place, "--json", *more)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            yield process
        finally:
            process.kill()


def drop(place: Path, index: int) -> None:
    """Rename an image into the watched folder; each is another one."""
    name = f"{index:03d}.png"
    shutil.copy(CELLS[index % 10 == 9], place / name)
    (place / name).rename(place / "in" / name)


def acknowledged(process: subprocess.Popen[str]) -> str:
    """Wait for the next record, and return its image."""
    assert process.stdout is not None
    return str(json.loads(process.stdout.readline())["image"])


@contextlib.contextmanager
def broker(port: int) -> Iterator[None]:
    script = Path(__file__).with_name("mqtt_broker.py")
    command = [sys.executable, str(script), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8") as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()


class Subscriber:
    """Receives what is published, and waits for a number of different verdicts."""

    def __init__(self, port: int) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.verdicts: dict[str, str] = {}
        self._enough, self._wanted = threading.Event(), 0
        ready = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._take
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_connect = lambda client, *_: client.subscribe("line/verdicts", qos=1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert ready.wait(60)

    def _take(self, _client: Any, _data: Any, message: Any) -> None:
        record = json.loads(message.payload)
        self.verdicts[record["verdict_id"]] = record["image"]
        if len(self.verdicts) >= self._wanted > 0:
            self._enough.set()

    def wait(self, count: int) -> None:
        self._wanted = count
        assert len(self.verdicts) >= count or self._enough.wait(120)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.slow
def test_files_through_two_kills_and_a_broker_that_comes_late(place):
    """Each file is dropped when the one before it was acknowledged."""
    pytest.importorskip("amqtt", reason="the broker amqtt is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    more = ("--move", "--csv", "--mqtt", f"mqtt://127.0.0.1:{port}/line/verdicts")
    count, kills = 60, (20, 40)
    for begin, end in zip((0, *kills), (*kills, count), strict=True):
        with contextlib.ExitStack() as held:
            subscriber = None
            if end == count:  # until then, there was no broker
                held.enter_context(broker(port))
                subscriber = Subscriber(port)
                held.callback(subscriber.close)
            process = held.enter_context(watching(place, *more))
            judged = set()
            for index in range(begin, end):
                drop(place, index)
                if end == count or index < end - 3:  # the last ones are still to be judged at the kill
                    judged.add(acknowledged(process))
            if subscriber is None:
                process.send_signal(signal.SIGKILL)
                continue
            while f"{count - 1:03d}.png" not in judged:  # the files that were left at the kill came first
                judged.add(acknowledged(process))
            subscriber.wait(count)
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
    records = lines(place / "out")
    names = [f"{index:03d}.png" for index in range(count)]
    assert sorted(record["image"] for record in records) == names
    assert {record["verdict_id"] for record in records} == set(subscriber.verdicts)
    expected = [f"{'defective' if index % 10 == 9 else 'good'}/{name}" for index, name in enumerate(names)]
    assert sorted_files(place / "out") == sorted(expected)
    with contextlib.closing(Ledger(place / "out" / FILE)) as ledger:
        assert ledger.waiting("mqtt") == 0


def test_a_signal_ends_it_after_the_file_in_hand_and_a_second_station_is_refused(place, cli):
    with watching(place) as process:
        drop(place, 0)
        assert acknowledged(process) == "000.png"
        refused = cli(*arguments(place, "--once"), code=2)
        assert "another kdx watch is working" in refused.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        assert "files: 1 good" in process.stderr.read()
    assert "no file was judged" in cli(*arguments(place, "--once", "--settle", "0")).stderr


def test_records_of_the_command_line(place, cli):
    (place / "in/left").mkdir()
    for index, cell in enumerate(CELLS):
        shutil.copy(cell, place / f"in/left/{index}.png")
    more = ("--once", "--settle", "0", "--link", "--heat-maps", "--part-id", r"(?P<part>\d+)\.png")
    assert [line["part_id"] for line in cli(*arguments(place, *more, "--json")).lines] == ["0", "1"]
    good, defective = lines(place / "out")
    assert (good["verdict"], defective["verdict"]) == ("good", "defective")
    first = json.loads(next((place / "out/verdicts").iterdir()).read_text(encoding="utf-8").splitlines()[0])
    assert (first["event"], first["by"]["bundle_sha256"]) == ("bundle", good["bundle_sha256"])
    assert sorted_files(place / "out") == [
        "defective/left/1.png", "good/left/0.png",
        "heat_maps/defective/left/1.png.png", "heat_maps/good/left/0.png.png",
    ]  # fmt: skip


def with_a_file(folder: Path) -> Path:
    folder.mkdir()
    (folder / "mine.txt").touch()
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: ["--out", str(place / "in/out")], "lie in each other"),
        (lambda place: ["--out", str(place)], "lie in each other"),
        (lambda place: ["--out", str(place / "tile.kdx")], "which is a bundle"),
        (lambda place: ["--out", str(with_a_file(place / "mine"))], "is not of kdx watch"),
        (lambda place: ["--move", "--link"], "either moved or linked"),
        (lambda place: ["--semicolons"], "--semicolons would change nothing"),
        (lambda place: ["--part-timeout", "3"], "--part-timeout would change nothing without --part-of"),
        (lambda place: ["--keep", "good=7d"], "--keep would delete nothing"),
        (lambda place: ["--exec", ""], "--exec names no program"),
        (lambda place: ["--exec", "'"], "cannot be split"),
        (lambda place: ["--exec", f"{place / 'nothing'} --now"], "--exec names a program that is not there"),
        (lambda place: ["--views", "a,b"], "both --part-of and --views"),
    ],
)
def test_requests_that_make_no_sense_are_refused(place, cli, change, message):
    refused = cli(*arguments(place, *change(place), "--once"), code=2)
    assert message in refused.stderr


def test_the_help_shows_the_groups_of_the_expressions(cli):
    shown = cli("watch", "--help").stdout
    assert all(f"(?P<{group}>...)" in shown for group in ("part", "product", "view"))


def test_the_output_of_another_folder_is_refused(place, cli):
    cli(*arguments(place, "--once", "--settle", "0"))
    (place / "other").mkdir()
    words = arguments(place, "--once")
    words[1] = str(place / "other")
    assert "holds the records of another folder" in cli(*words, code=2).stderr
    words[1] = str(place / "missing")
    assert "there is no folder" in cli(*words, code=2).stderr


def test_names_without_a_part_are_said_once_and_counted(place, cli):
    for index in range(3):
        drop(place, index)
    said = cli(*arguments(place, "--once", "--settle", "0", "--part-id", "(?P<part>00[01])")).stderr
    assert said.count("finds no part in") == 1
    assert "--part-id finds no part in '002.png'" in said
    assert "; 1 name without a part" in said


def test_verdicts_that_wait_for_receivers_of_earlier_calls_are_said(place, cli):
    cli(*arguments(place, "--once", "--settle", "0"))
    with contextlib.closing(Ledger(place / "out" / FILE)) as ledger, ledger.transaction():
        for receiver in ("exec", "exec", "plc"):
            ledger.post(receiver, b"{}\n")
    said = cli(*arguments(place, "--once", "--exec", "false")).stderr
    assert "1 verdict waits for plc, and this call does not deliver: add --plc" in said
    assert "this call does not deliver: add --exec" not in said
    assert (
        "2 verdicts wait for exec, and this call does not deliver: add --exec"
        in cli(*arguments(place, "--once")).stderr
    )


def test_an_end_by_a_second_signal_leaves_no_file_in_hand(place):
    def interrupted(_: object) -> None:
        assert (place / "out/in_hand.json").exists()
        raise KeyboardInterrupt

    drop(place, 0)
    with pytest.raises(KeyboardInterrupt):
        judge_arrivals(options_once(place), each=interrupted)
    assert not (place / "out/in_hand.json").exists()


@pytest.fixture
def posted(tmp_path: Path) -> Path:
    """A ledger with three messages for a command."""
    with contextlib.closing(Ledger(tmp_path / FILE, create=True)) as ledger, ledger.transaction():
        for index in range(3):
            ledger.post("exec", f"{index}\n".encode())
    return tmp_path / FILE


def waiting(path: Path) -> int:
    with contextlib.closing(Ledger(path)) as ledger:
        return ledger.waiting("exec")


def test_a_command_gets_each_record_until_it_takes_it(posted, tmp_path, monkeypatch):
    """The second message fails twice: it is repeated before the third."""
    monkeypatch.setattr(delivery, "_FIRST_PAUSE", 0.0)
    script = tmp_path / "take.py"
    script.write_text(
        "import sys, pathlib\n"
        f"log = pathlib.Path({str(tmp_path / 'log')!r})\n"
        "text = sys.stdin.read()\n"
        "with log.open('a') as file: file.write(text)\n"
        "sys.exit(text == '1\\n' and log.read_text().count('1') < 3)\n",
        encoding="utf-8",
    )
    said: list[str] = []
    courier = Courier(posted, Command([sys.executable, str(script)]), said.append)
    courier.start()
    while waiting(posted):  # it is asked, and not timed
        courier.join(0.01)
    courier.end()
    assert (tmp_path / "log").read_text(encoding="utf-8").split() == ["0", "1", "1", "1", "2"]
    assert said == [
        "exec does not receive verdicts (exit status 1): 2 verdicts wait, and none is lost",
        "exec receives verdicts again",
    ]


@pytest.mark.parametrize(
    ("command", "seconds", "reason"),
    [
        (["/does/not/exist"], 60.0, "the command cannot be run: No such file or directory"),
        ([sys.executable, "-c", "import time; time.sleep(1000)"], 0.2, "the command did not end within 0.2 s"),
        (["sh", "-c", "kill -9 $$"], 60.0, "the command was ended by signal 9"),
        (["false"], 60.0, "exit status 1"),
    ],
)
def test_a_command_that_takes_nothing_loses_nothing(posted, command, seconds, reason):
    said: list[str] = []
    courier = Courier(posted, Command(command, seconds), said.append)
    courier.start()
    courier.end(when_done=True)
    assert waiting(posted) == 3
    assert said == [f"exec does not receive verdicts ({reason}): 3 verdicts wait, and none is lost"]


@pytest.mark.parametrize("when_done", [False, True])
def test_a_command_that_hangs_does_not_hold_up_the_end(posted, tmp_path, when_done):
    """It is ended with what it started, although it may take an hour while the station runs."""
    held, ends = tmp_path / "held", threading.Event()
    os.mkfifo(held)
    hangs = ["sh", "-c", f"exec 3> {held}; echo began >&3; sleep 3600 & wait"]
    said: list[str] = []
    courier = Courier(posted, Command(hangs, 3600.0, last_seconds=0.0), said.append)
    courier.start()
    with held.open(encoding="ascii") as read:
        assert read.readline() == "began\n"
        ends.set()
        courier.end(when_done=when_done, is_stopping=ends.is_set)
        assert read.read() == ""  # nobody holds it any longer
    assert waiting(posted) == 3
    reason = "the command did not end within 0 s"
    assert said == [f"exec does not receive verdicts ({reason}): 3 verdicts wait, and none is lost"]


def test_an_unexpected_error_ends_no_delivery(posted, monkeypatch):
    """A receiver fails as none should, and the ledger cannot be read meanwhile."""
    monkeypatch.setattr(delivery, "_FIRST_PAUSE", 0.0)
    count, fails = Ledger.waiting, iter(range(2))

    class Receiver:
        name, at_once = "exec", 3

        def send(self, messages: Sequence[tuple[int, bytes]], stop: threading.Event) -> tuple[list[int], str]:
            if next(fails, None) is not None:
                raise ValueError("the payload is too large")
            return [number for number, _ in messages], ""

        def close(self) -> None:
            pass

    def refuse(*_: object) -> int:
        raise OutputError("the ledger cannot be read")

    monkeypatch.setattr(Ledger, "waiting", refuse)
    said: list[str] = []
    courier = Courier(posted, Receiver(), said.append)
    courier.start()
    while not any("again" in text for text in said) and courier.is_alive():  # it is asked, and not timed
        courier.join(0.01)
    courier.end()
    monkeypatch.setattr(Ledger, "waiting", count)
    assert waiting(posted) == 0
    assert said == [
        "exec does not receive verdicts (unexpected ValueError: the payload is too large): verdicts wait, "
        "and none is lost",
        "exec receives verdicts again",
    ]


def test_a_ledger_that_cannot_be_opened_ends_no_delivery(posted, monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_PAUSE", 0.0)
    fails = iter(range(2))

    def hindered(path: Path) -> Ledger:
        if next(fails, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return Ledger(path)

    monkeypatch.setattr(delivery, "Ledger", hindered)
    said: list[str] = []
    courier = Courier(posted, Command(["true"]), said.append)
    courier.start()
    while waiting(posted) and courier.is_alive():  # it is asked, and not timed
        courier.join(0.01)
    courier.end()
    assert waiting(posted) == 0
    assert [text.partition(" (")[0] for text in said] == [
        "exec does not receive verdicts",
        "exec receives verdicts again",
    ]


def test_a_log_that_cannot_be_written_ends_no_delivery(posted, monkeypatch):
    monkeypatch.setattr(delivery, "_FIRST_PAUSE", 0.0)
    taken: list[bytes] = []

    class Receiver:
        name, at_once, is_back = "exec", 3, False

        def send(self, messages: Sequence[tuple[int, bytes]], stop: threading.Event) -> tuple[list[int], str]:
            if not self.is_back:
                self.is_back = True
                return [], "it is away"
            taken.extend(line for _, line in messages)
            return [number for number, _ in messages], ""

        def close(self) -> None:
            pass

    class FullDisk(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", FullDisk())
    courier = Courier(posted, Receiver(), say)
    courier.start()
    while waiting(posted) and courier.is_alive():  # it is asked, and not timed
        courier.join(0.01)
    courier.end()
    assert taken == [b"0\n", b"1\n", b"2\n"]


def test_a_broker_that_is_away_loses_nothing(posted, monkeypatch):
    pytest.importorskip("paho.mqtt", reason="paho-mqtt is not installed")
    from kdx.station import mqtt
    from kdx.station.broker import Broker

    monkeypatch.setattr(mqtt, "_PATIENCE_SECONDS", 0.1)
    receiver = mqtt.MqttReceiver(Broker("127.0.0.1", 9, "t"))
    said: list[str] = []
    courier = Courier(posted, receiver, said.append)
    with contextlib.closing(Ledger(posted)) as ledger, ledger.transaction():
        ledger.post("mqtt", b"{}\n")
    courier.start()
    courier.end(when_done=True)
    assert said == ["mqtt does not receive verdicts (no connection to 127.0.0.1:9): 1 verdict waits, and none is lost"]
