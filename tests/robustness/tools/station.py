"""A station on the line: is every part judged, recorded and reported once, whatever happens?

Run as a script with the name of a trial and its options; prints what was found as JSON. ``watch``:
parts arrive as files, through two kills and a full disk, with two subscribers of an MQTT broker.
``serve``: the same over HTTP, with the live page and an operator. ``load``: clients that ask at
once. The station's output lies on a disk in memory, in a namespace that ends with this process;
that needs root, or user namespaces.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.robustness.small_disk import mount
from tests.robustness.tools.children import run_command
from tests.robustness.tools.station_line import Line, Station, free_port, wait_until
from tests.robustness.tools.station_load import load_server

_DISK_MB = 512
_TOPIC, _BEHIND, _ON_PAGE, _REVIEWS = "line/verdicts", 20, 10, 10
_BROKER = """
listeners: {default: {type: tcp, bind: "127.0.0.1:PORT"}}
plugins: {amqtt.plugins.authentication.AnonymousAuthPlugin: {allow_anonymous: true}}
"""


def main(arguments: Sequence[str]) -> None:
    """Run one trial; where the system lets nobody mount a disk, say so."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trial", choices=("watch", "serve", "load"))
    for name in ("images", "bundle"):
        parser.add_argument(name, type=Path)
    for name in ("parts", "rate", "requests", "clients"):
        parser.add_argument(name, type=int)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as disk, tempfile.TemporaryDirectory() as work:
        try:
            mount(Path(disk), _DISK_MB)
        except OSError as error:
            print(json.dumps({"unable": str(error)}))
            return
        line = Line(given.bundle, sorted(given.images.glob("*.png")), Path(disk), Path(work), given.parts, given.rate)
        if given.trial == "load":
            found = load_server(line, given.requests, given.clients)
        else:
            found = {"watch": watch, "serve": serve}[given.trial](line)
        print(json.dumps(found), flush=True)
        sys.stdout.flush()
        subprocess.run(["umount", disk], check=False)


def watch(line: Line) -> dict[str, Any]:
    """Let parts arrive as files; return what became of them."""
    port, folder, out, config = free_port(), line.work / "in", line.disk / "out", line.work / "broker.yaml"
    folder.mkdir()
    config.write_text(_BROKER.replace("PORT", str(port)), encoding="utf-8")
    broker = subprocess.Popen([Path(sys.executable).with_name("amqtt"), "-c", config], stderr=subprocess.DEVNULL)
    received = [_subscribed(port) for _ in range(2)]
    more = ("--move", "--csv", "--part-id", r"^(?P<part>\d+)", "--mqtt", f"mqtt://127.0.0.1:{port}/{_TOPIC}")
    station = Station("watch", folder, "--bundle", line.bundle, "--out", out, *more)

    def drop(index: int) -> None:
        part = shutil.copyfile(line.image(index), line.work / f"{index}.part")
        part.rename(folder / f"{index:06d}.png")

    line.run(drop, station, lambda index: wait_until(lambda: len(received[0]) >= index - _BEHIND))
    wait_until(lambda: all(len(each) >= line.parts for each in received))
    status = station.end()
    broker.kill()
    lines = [text for file in out.glob("verdicts/*.jsonl") for text in file.read_text(encoding="utf-8").splitlines()]
    records = [record for record in map(json.loads, lines) if "verdict" in record]
    ids = {record["verdict_id"] for record in records}
    return {
        **_once(line, records),
        "files_sorted": len([*out.glob("*/*.png")]),
        "received": [len(ids & set(each)) for each in received],
        "repeats": [each.total() - len(each) for each in received],
        "exit_status": status,
    }


def _subscribed(port: int) -> Counter[str]:
    """Return how often a subscriber received each verdict, which grows."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    received, ready = Counter[str](), threading.Event()
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda *given: received.update([json.loads(given[2].payload)["verdict_id"]])
    client.on_connect = lambda each, *_: each.subscribe(_TOPIC, qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.reconnect_delay_set(1, 1)
    client.connect_async("127.0.0.1", port)
    client.loop_start()
    wait_until(ready.is_set)
    return received


def _once(line: Line, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many parts have exactly one record, and the records by verdict."""
    by_part = Counter(record["part_id"] for record in records)
    verdicts = dict(Counter(record["verdict"] for record in records))
    return {"parts": line.parts, "with_one_record": sum(n == 1 for n in by_part.values()), "verdicts": verdicts}


def serve(line: Line) -> dict[str, Any]:
    """Send parts as requests, each until it is answered; return what became of them."""
    data, shown, page = line.disk / "data", set[str](), dict[str, Any]()
    station = Station("serve", line.bundle, "--data", data, port=free_port())
    answers: list[dict[str, Any]] = []

    def follow() -> None:
        while True:
            try:
                connection = station.connect()
                connection.request("GET", "/live/events")
                for text in connection.getresponse():
                    if text.startswith(b"data: "):
                        page.update(json.loads(text[6:]))
                        shown.update(part["verdict_id"] for part in page["shift"]["latest"])
            except (OSError, HTTPException):  # the server was killed: a browser connects again
                time.sleep(0.2)

    def post(path: str, body: bytes, kind: str) -> tuple[int, bytes]:
        while True:
            try:
                connection = station.connect()
                connection.request("POST", path, body, {"Content-Type": kind})
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, HTTPException):
                assert station.process.poll() is None, "the server ended"
                time.sleep(0.2)

    def send(index: int) -> None:
        status, body = post(f"/v1/verdicts?part_id={index:06d}", line.image(index).read_bytes(), "image/png")
        assert status == 200, body
        answers.append(json.loads(body))

    def keep_up(index: int) -> None:
        if index % _ON_PAGE == 0 or index in line.kills:
            wait_until(lambda: {answer["verdict_id"] for answer in answers[-_ON_PAGE:]} <= shown)

    threading.Thread(target=follow, daemon=True).start()
    line.run(send, station, keep_up)
    keep_up(0)
    wait_until(lambda: page["reviews"]["waiting"] >= _REVIEWS)
    for number, part in enumerate(page["reviews"]["parts"][:_REVIEWS]):
        said = {"said": ("good", "defective")[number % 2], "who": "operator", "before": None}
        status, body = post(f"/live/reviews/{part['verdict_id']}", json.dumps(said).encode(), "application/json")
        assert status == 204, body
    status = station.end()
    reviewed = data / "reviewed" / line.bundle.name.removesuffix(".kdx")
    # In this process: what both import takes seconds.
    _command("report", line.bundle, reviewed, "-o", line.work / "report.html", "--no-latency")
    found = json.loads(_command("evaluate", line.bundle, reviewed, "--json"))
    return {
        **_once(line, answers),
        "shown": len({answer["verdict_id"] for answer in answers} & shown),
        "reviews": _REVIEWS,
        "in_report": found["good"] + found["defective"],
        "exit_status": status,
    }


def _command(*arguments: object) -> str:
    """Run a command of kdx in this process; return what it printed."""
    ended = run_command(arguments)
    assert ended["status"] == 0, ended
    return str(ended["stdout"])


if __name__ == "__main__":
    main(sys.argv[1:])
