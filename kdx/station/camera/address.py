"""Which camera frames come from, as users name it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import parse_qsl, quote, urlsplit

from kdx.errors import DataError, OptionError

# The variable of the environment that holds the password: the command line is seen by all users.
PASSWORD = "KDX_CAMERA_PASSWORD"  # noqa: S105
_URLS = frozenset({"rtsp", "rtsps", "http", "https"})
_DEVICE = re.compile(r"/dev/(video\d+|v4l/.+)")
# What may be a password, also in a URL that is not valid: rtsp://user:pa/ss@host.
_MAYBE_PASSWORD = re.compile(r"(?!genicam:)[\w.+-]{2,}:(//.*:|(?!//)).*@", re.DOTALL)
_USER_AND_QUERY = re.compile(r"(?P<scheme>[^:]*://)([^/?#]*@)?(?P<rest>[^?#]*).*", re.DOTALL)
SERIAL = "serial"

_PRODUCER = "genicam:"
_EXPECTED = "a video file, /dev/video0, rtsp://USER@HOST/PATH, or genicam:PRODUCER.cti?serial=NUMBER"

Kind: TypeAlias = Literal["video", "device", "stream", "genicam"]


@dataclass(frozen=True)
class CameraAddress:
    """Where frames come from.

    Attributes:
        text: What messages call it: what the user wrote; of a stream, without the user and the
            query, which may hold a password.
        kind: A video file, a V4L2 device, a stream of a network camera, or a GenICam camera.
        path: The file, the device, the URL, or the file of the GenTL producer. Not for messages.
        name: What the camera is called in records and in the names of frames.
        settings: Names and values of what is set at the device, in the order in which they are set.
            A name may be repeated, as GenICam selectors need it.
    """

    text: str
    kind: Kind
    path: str = field(repr=False)
    name: str
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def serial(self) -> str | None:
        """The serial number of a GenICam camera, where it is given."""
        return dict(self.settings).get(SERIAL)

    @property
    def is_live(self) -> bool:
        """Whether frames come whether or not they are taken; those of a file wait."""
        return self.kind != "video"

    @property
    def identity(self) -> str:
        """By what it is known again, whatever its settings are.

        A video file that was replaced is another source.

        Raises:
            DataError: The video file is gone.
        """
        if self.kind == "stream":
            # The channels of a recorder differ by the query. So few digits of its hash say next to
            # nothing of a password.
            query = urlsplit(self.path).query
            return f"camera {self.text}" + (f"?{hashlib.sha256(query.encode()).hexdigest()[:4]}" if query else "")
        if self.is_live:
            return _without_settings(f"camera {self.text}")
        try:
            status = Path(self.path).stat()
        except OSError as error:
            raise _no_file(self.path) from error
        return f"video {os.path.realpath(self.path)} of {status.st_size} bytes, {status.st_mtime_ns}"

    def is_known_as(self, identity: str) -> bool:
        """Whether an identity is that of this camera; an earlier kdx added its settings."""
        return self.kind in {"device", "genicam"} and _without_settings(identity) == self.identity

    def with_setting(self, name: str, value: str) -> str:
        """Return what the user could have written."""
        return f"{self.text}{'&' if '?' in self.text else '?'}{name}={value}"

    def url(self) -> str:
        """Return the path as it is opened, with the password of the environment."""
        password = os.environ.get(PASSWORD)
        if self.kind != "stream" or password is None:
            return self.path
        parts = urlsplit(self.path)
        user, _, host = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def parse_camera(text: str) -> CameraAddress:
    """Return the camera that a user names.

    For example ``clip.mp4``, ``/dev/video0?framerate=30``, ``rtsp://user@host/path`` or
    ``genicam:producer.cti?serial=123&ExposureTime=2000``.

    Raises:
        DataError: There is no such file or device.
        OptionError: It is another text.
    """
    if _MAYBE_PASSWORD.match(text) and not Path(text).is_file():
        raise OptionError(
            "`camera` holds a password, which every user of this machine could see",
            fix=f"leave it out, and set the variable {PASSWORD} of the environment; write an @ of the path as %40",
        )
    if "://" in text:
        return _stream(text, text.partition("://")[0].lower())
    if os.environ.get(PASSWORD):
        raise OptionError(
            f"the password in {PASSWORD} has no effect: only network cameras have one",
            received=text,
            fix=f"unset {PASSWORD}, or name a network camera: rtsp://USER@HOST/PATH",
        )
    if text.startswith(_PRODUCER):
        path, _, given = text.removeprefix(_PRODUCER).partition("?")
        settings = _settings(given)
        _require_once(settings, {SERIAL}, text)
        return CameraAddress(text, "genicam", path, _plain(dict(settings).get(SERIAL, Path(path).stem)), settings)
    if _DEVICE.match(text):
        path, _, given = text.partition("?")
        if not Path(path).exists():
            raise DataError(
                f"there is no device '{path}'", received=_devices(), fix="connect the camera, and name its device"
            )
        settings = _settings(given)
        _require_once(settings, {name for name, _ in settings}, text)
        return CameraAddress(text, "device", path, _plain(Path(path).name), settings)
    if not Path(text).is_file():
        raise _no_file(text)
    return CameraAddress(text, "video", text, _plain(Path(text).stem))


def require_triggered(address: CameraAddress) -> None:
    """Refuse a camera whose frames are older than the trigger that they are to belong to.

    Raises:
        OptionError: It is a V4L2 device or a stream.
    """
    if address.kind in {"device", "stream"}:
        raise OptionError(
            f"'{address.text}' cannot be triggered: frames of a stream were taken some time before they arrive, "
            "perhaps of another part",
            expected="`camera=genicam:PRODUCER.cti?serial=NUMBER`, or a video file to try it",
        )


def _stream(text: str, scheme: str) -> CameraAddress:
    shown = _USER_AND_QUERY.sub(r"\g<scheme>\g<rest>", text)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if scheme not in _URLS or not parts.hostname:
        raise OptionError(
            "`camera` does not name a camera",
            expected=_EXPECTED,
            received=shown,
        )
    if parts.username is None and os.environ.get(PASSWORD):
        raise OptionError(
            f"the password in {PASSWORD} has no effect: `camera` names no user",
            received=shown,
            fix=f"name the user, {scheme}://USER@{parts.hostname}/..., or unset {PASSWORD}",
        )
    return CameraAddress(shown, "stream", text, _plain(parts.hostname if port is None else f"{parts.hostname}-{port}"))


def _settings(text: str) -> tuple[tuple[str, str], ...]:
    try:
        return tuple(parse_qsl(text, strict_parsing=True, keep_blank_values=True) if text else ())
    except ValueError as error:
        raise OptionError("`camera` has settings without a value", expected="?NAME=VALUE&...", received=text) from error


def _without_settings(identity: str) -> str:
    """Return the identity of a device or a GenICam camera with nothing but its serial number."""
    path, _, given = identity.partition("?")
    serial = dict(parse_qsl(given)).get(SERIAL)
    return path if serial is None else f"{path}?{SERIAL}={serial}"


def _require_once(settings: Sequence[tuple[str, str]], names: Set[str], text: str) -> None:
    for name in sorted(names):
        if sum(each == name for each, _ in settings) > 1:
            raise OptionError(f"`camera` gives '{name}' several times", expected="one value", received=text)


def _devices() -> str:
    found = sorted(path.name for path in Path("/dev").glob("video*"))
    return ", ".join(f"/dev/{name}" for name in found) or "this machine has no /dev/video*"


def _plain(name: str) -> str:
    """Return a name for files: letters, digits, and few signs."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:60] or "camera"


def _no_file(path: str) -> DataError:
    return DataError(
        f"there is no video '{path}'",
        expected=_EXPECTED,
        fix="name a file that exists",
    )
