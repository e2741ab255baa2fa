"""The line: parts at a rate, a disk that fills up, and processes of kdx that are killed."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import environment
from tests.robustness.small_disk import fill

_PATIENCE = 1800.0  # ends a trial that hangs


class Station:
    """A command of kdx that can be killed; ``port`` is that of a server, else 0."""

    def __init__(self, *arguments: object, port: int = 0) -> None:
        words = [*arguments, *(("--port", port) if port else ()), "--backend", "onnxruntime-cpu", "--threads", 1]
        self._command = [sys.executable, "-m", "kdx", *map(str, words), "--precision", "fp32", "--json"]
        self.port, self.was_full = port, threading.Event()
        self.start()

    def start(self) -> None:
        """Start the command, and wait until a server has its port."""
        self.process = subprocess.Popen(self._command, stdout=-1, stderr=-1, encoding="utf-8", env=environment(1))
        assert self.process.stdout is not None
        ready = self.process.stdout.readline() if self.port else ""
        assert "error" not in ready, ready
        for stream in (self.process.stdout, self.process.stderr):
            threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: Iterable[str]) -> None:
        for text in stream:
            if "is full" in text:
                self.was_full.set()

    def end(self) -> int:
        """End the process as a service manager does; return its exit status."""
        self.process.terminate()
        return self.process.wait(_PATIENCE)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection to the server."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)


@dataclass(frozen=True)
class Line:
    """``parts`` that show ``images`` in turn, ``rate`` a second; ``disk`` is a small one."""

    bundle: Path
    images: list[Path]
    disk: Path
    work: Path
    parts: int
    rate: int

    @property
    def kills(self) -> tuple[int, int]:
        """The parts before which the station is killed."""
        return self.parts // 4, 3 * self.parts // 4

    def image(self, index: int) -> Path:
        """Return what a part shows."""
        return self.images[index % len(self.images)]

    def run(self, send: Callable[[int], None], station: Station, wait: Callable[[int], None]) -> None:
        """Send every part, kill the station twice, and fill the disk.

        Without a rate, ``wait`` lets the station come near to the part of a number.
        """
        started, full, room = time.monotonic(), self.parts // 2, self.parts // 2 + max(self.parts // 100, 5)
        filler = self.disk / "filler"
        for index in range(self.parts):
            if self.rate:
                time.sleep(max(started + index / self.rate - time.monotonic(), 0.0))
            elif station.port or not full <= index <= room:
                wait(index)
            if index in self.kills:
                station.process.kill()
                station.process.wait()
                station.start()
            if index == full:
                fill(filler, 0)
            if index == room:
                assert station.port or station.was_full.wait(_PATIENCE), "the disk was never full"
                filler.unlink()
            send(index)


def wait_until(is_so: Callable[[], Any]) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + _PATIENCE
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
