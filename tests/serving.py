"""A server of ``kdx serve`` in this process, and clients that ask it."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_SECONDS = 120.0  # ends a test that hangs

PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """One connection, which is kept open between requests."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        at = urlsplit(self.url)
        assert at.hostname is not None
        self.connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(at.hostname, at.port, timeout=_SECONDS, context=self.context)
            if at.scheme == "https"
            else http.client.HTTPConnection(at.hostname, at.port, timeout=_SECONDS)
        )

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}) -> None:
        self.connection.request(method, path, body, {**self.headers, **headers})

    def answer(self) -> Answer:
        response = self.connection.getresponse()
        return Answer(response.status, dict(response.getheaders()), response.read())

    def get(self, path: str, headers: Mapping[str, str] = {}) -> Answer:
        self.send("GET", path, headers=headers)
        return self.answer()

    def post(self, path: str, body: Any, headers: Mapping[str, str] = PNG) -> Answer:
        self.send("POST", path, body, headers)
        return self.answer()


@contextmanager
def served(*bundles: Path, **options: Any) -> Iterator[Any]:
    """Serve bundles on a free port, in a thread."""
    from kdx.station.serve.options import ServeOptions
    from kdx.station.serve.server import LoadOptions, server_of

    how = LoadOptions(backend="onnxruntime-cpu", threads=1)
    with server_of(bundles, ServeOptions(**{"port": 0, **options}), how) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield server
        finally:
            server.should_exit = True
            thread.join()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or process does."""
    end = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def figure(server: Any, name: str) -> float:
    """Return a figure of the only bundle's, as ``/metrics`` shows it."""
    text = Client(server.url).get("/metrics").body.decode()
    (line,) = [line for line in text.splitlines() if line.startswith(name + "{")]
    return float(line.split()[-1])


class Held:
    """A detector whose calls wait until they may go on; it counts them."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector
        self.may = threading.Semaphore(0)
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)

    def __call__(self, frame: Any) -> Any:
        self.calls += 1
        assert self.may.acquire(timeout=_SECONDS)
        return self._detector(frame)
