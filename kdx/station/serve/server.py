"""Starting and stopping the server: bundles loaded, the port taken, the last requests answered."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# The first verdict and the first drift would import these while requests and the PLC wait.
import scipy.ndimage
import scipy.stats  # noqa: F401
import uvicorn

from kdx.errors import BundleError, InputError, OptionError
from kdx.loading.load import is_run, load, require_outside_bundles
from kdx.loading.origin import Origin
from kdx.monitoring.judged_by import JudgedBy
from kdx.runtime.detector import Detector
from kdx.station.camera.address import parse_camera, require_triggered
from kdx.station.camera.grabbing import open_camera, require_size
from kdx.station.database import FILE
from kdx.station.serve.app import Service
from kdx.station.serve.camera import TriggeredCamera
from kdx.station.serve.figures import Figures
from kdx.station.serve.judge import Judge, Observer
from kdx.station.serve.kept_shift import ShiftKeeper, read_shift
from kdx.station.serve.live import Live
from kdx.station.serve.live_page import LivePage
from kdx.station.serve.options import DATA_BYTES, TRIGGER_SECONDS, ServeOptions, require_names
from kdx.station.serve.plc import PlcPost
from kdx.station.serve.reviews import Reviews
from kdx.text import number_of

# Requests that are in the queue at SIGTERM are answered within this time, or not at all.
_SECONDS_TO_STOP, _SECONDS_TO_LOOK = 60.0, 0.1
_BACKLOG = 128
# Parts may come seldom: a client keeps its connection between two of them.
_SECONDS_KEPT_OPEN = 75


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How the bundles are loaded, see :func:`kdx.load`."""

    backend: str = "auto"
    precision: str | None = None
    threads: int | None = None
    require_signature: Sequence[Path] = ()


class Server(uvicorn.Server):
    """A server that has its port and its bundles.

    Attributes:
        url: Where it is reached.
        judges: The judges by the name of their bundle.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listening: socket.socket,
        url: str,
        judges: Mapping[str, Judge],
        page: LivePage,
        camera: TriggeredCamera | None = None,
        plc: PlcPost | None = None,
    ) -> None:
        super().__init__(config)
        self._listening, self._page, self.url, self.judges = listening, page, url, judges
        self._camera, self._plc = camera, plc
        self._pulse: asyncio.Task[None] | None = None
        self._unanswered = 0

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests until SIGTERM, Ctrl-C, or ``should_exit``.

        Then the port is closed, and the requests that were accepted are answered.

        Raises:
            KeyboardInterrupt: A second Ctrl-C came while they were being answered.
        """
        try:
            super().run(sockets or [self._listening])
        except KeyboardInterrupt:  # the server raises the signal once more that ended it
            if self.force_exit:
                raise

    @property
    def ended(self) -> str:
        """What became of the requests that were accepted."""
        if self._unanswered:
            missing = number_of(self._unanswered, "[request was|requests were]")
            return f"ended: {missing} not answered within {_SECONDS_TO_STOP:g} s"
        return "ended: requests that were accepted have been answered"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and to tell the PLC that requests are answered."""
        await super().startup(sockets)
        if self._plc is not None:
            cameras = () if self._camera is None else (self._camera,)
            self._pulse = asyncio.create_task(self._plc.pulse([*self.judges.values(), *cameras]))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams of the page, which would never end, and answer what was accepted."""
        self._page.close()
        end = time.monotonic() + _SECONDS_TO_STOP
        ending = asyncio.ensure_future(super().shutdown(sockets))
        # Since Python 3.12, it waits for connections to close also after a second Ctrl-C.
        while not ending.done() and not self.force_exit and time.monotonic() < end:
            await asyncio.wait((ending,), timeout=_SECONDS_TO_LOOK)
        if ending.done():
            ending.result()
        else:
            ending.cancel()
            self._unanswered = len(self.server_state.tasks)
        if self._pulse is not None:
            self._pulse.cancel()


@contextmanager
def server_of(
    bundles: Sequence[Path], options: ServeOptions, how: LoadOptions, say: Callable[[str], None] = lambda _: None
) -> Iterator[Server]:
    """Load bundles and take the port; at the end, close everything.

    Args:
        bundles: The bundles' folders.
        options: What the server listens on, and the limits of requests.
        how: How the bundles are loaded.
        say: Is given what users should know. Other threads call it too.

    Raises:
        OptionError: The port is in use, or a certificate cannot be read.
        OutputError: The folder ``data`` lies in a bundle or a run.
        BundleError: A bundle cannot be served.
        PlcRefusesError: The PLC answers, and refuses what kdx asks.
        KdxError: As for :func:`kdx.load`.
    """
    if options.data is not None:
        require_outside_bundles(options.data, "data")
    figures = Figures()
    with ExitStack() as held:
        listening = held.enter_context(_listen(options))
        loaded = {name: _load(held, path, how, figures) for name, path in require_names(bundles).items()}
        reviews = None
        if options.data is not None:
            detectors = {name: detector for name, (detector, _) in loaded.items()}
            reviews = held.enter_context(closing(Reviews(options.data, options.data_bytes or DATA_BYTES, detectors)))
        plc = None
        if options.plc is not None and options.data is not None:
            plc = held.enter_context(PlcPost(options.data / FILE, options.plc, say))
        drifts = {name: partial(figures.drift_of, by) for name, (_, by) in loaded.items()}
        live = Live(drifts, read_shift(options.data))
        if options.data is not None:
            held.enter_context(closing(ShiftKeeper(options.data, live)))
        observers: list[Observer] = [live] if reviews is None else [live, reviews]
        judges = {
            name: held.enter_context(
                closing(Judge(name, detector, by, figures.of(by.bundle), observers, options.places, plc))
            )
            for name, (detector, by) in loaded.items()
        }
        camera = None
        if options.camera is not None:
            seconds = TRIGGER_SECONDS if options.trigger_timeout is None else options.trigger_timeout
            camera = held.enter_context(closing(_camera(options.camera, seconds, bundles, judges, say)))
        page = LivePage(judges, live, reviews, options)
        config = uvicorn.Config(
            Service(judges, figures, options, page, observers, camera, plc).app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
            timeout_keep_alive=_SECONDS_KEPT_OPEN,
        )
        with _certificate_errors(options):
            config.load()
        host = f"[{options.host}]" if ":" in options.host else options.host
        url = f"{options.scheme}://{host}:{listening.getsockname()[1]}"
        yield Server(config, listening, url, judges, page, camera, plc)


def _camera(
    text: str, seconds: float, bundles: Sequence[Path], judges: Mapping[str, Judge], say: Callable[[str], None]
) -> TriggeredCamera:
    """Open the camera, and refuse bundles that do not take its frames."""
    address = parse_camera(text)
    require_triggered(address)
    camera = TriggeredCamera(address, lambda: open_camera(address, is_triggered=True, say=say), seconds)
    try:
        takes = zip(bundles, judges.values(), strict=True)
        require_size(camera.size, address, {path: judge.detector.input for path, judge in takes})
    except BaseException:
        camera.close()
        raise
    return camera


def _load(held: ExitStack, path: Path, how: LoadOptions, figures: Figures) -> tuple[Detector, JudgedBy]:
    """Load a bundle, which ``held`` closes."""
    if is_run(path):
        raise BundleError(f"'{path}' is a run, not a bundle", fix="export it: kdx export RUN -o NAME.kdx")
    keys = list(how.require_signature) or None
    detector = held.enter_context(
        load(path, how.backend, how.threads, precision=how.precision, require_signature=keys, metrics=figures.registry)
    )
    if detector.input.is_in_bands:
        raise InputError(
            f"'{path}' reads frames in bands of rows from files, which no request can hold",
            fix="judge the files: kdx predict BUNDLE FILES --json --regions",
        )
    assert isinstance(detector.origin, Origin)
    return detector, JudgedBy.of(detector, detector.origin.reopen())


@contextmanager
def _listen(options: ServeOptions) -> Iterator[socket.socket]:
    """Take the port, before bundles are loaded.

    Raises:
        OptionError: It is in use, may not be used, or the host is not of this machine.
    """
    with ExitStack() as held:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                options.host, options.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
            )[0]
            # With its protocol named, asyncio sends small packets at once. Otherwise each answer
            # would wait 40 ms for the acknowledgement of its headers.
            listening = held.enter_context(socket.socket(family, kind, protocol))
            if os.name == "posix":  # on Windows, this would let two servers have one port
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except (OSError, UnicodeError) as error:  # a name may hold a label that no name has
            code, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
            fix = {
                errno.EADDRINUSE: "end the program that uses it, or choose another `port`; `port=0` takes a free one",
                errno.EACCES: "choose a `port` from 1024",
            }.get(code or 0, "choose an address of this machine: `host=127.0.0.1`")
            raise OptionError(
                f"port {options.port} of '{options.host}' cannot be used: {reason or error}", fix=fix
            ) from error
        yield listening


@contextmanager
def _certificate_errors(options: ServeOptions) -> Iterator[None]:
    try:
        yield
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise OptionError(
            f"'{options.tls_cert}' and '{options.tls_key}' are not used: {reason}",
            expected="a certificate and its private key without a password, in PEM",
            fix="openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=localhost -keyout key.pem -out cert.pem",
        ) from error
