"""The options of ``kdx serve``, and what is refused because it would not be safe."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from kdx.errors import OptionError
from kdx.station.plc.plc import Plc
from kdx.storage.path_arguments import folder_name

# How many bytes parts to review take at most, unless the user says otherwise.
DATA_BYTES = 10 * 10**9
# The seconds from a trigger to its frame, unless the user says otherwise.
TRIGGER_SECONDS = 2.0
_SHORTEST_TOKEN = 16
_LOOPBACK = "localhost"
_MAKE_ONE = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What a server listens on, and the limits of requests.

    Attributes:
        host: The address to listen on.
        port: The port; 0 for one that is free.
        tls_cert: The certificate in PEM, with those that it stands on, or None.
        tls_key: Its private key in PEM, or None.
        token: The token that every request must have, or None.
        no_token: Whether the user said that whoever reaches the server may use it.
        places: How many requests a bundle may have at once, whether they are received, wait or are
            judged.
        max_body: The largest body of a request in bytes.
        body_seconds: The time within which a body must arrive.
        product: An expression with the group ``product``, which is searched in the part and finds
            the name of the bundle that judges it; None where requests name the bundle.
        data: The folder for parts to review, or None.
        data_bytes: How many bytes images in it may take; None for :data:`DATA_BYTES`.
        camera: A camera that requests can trigger, as users name it; None for no camera.
        trigger_timeout: The seconds from a request to its frame; None for :data:`TRIGGER_SECONDS`.
        plc: A PLC to which each verdict and a heartbeat are written, or None.

    Raises:
        OptionError: A certificate without a key, or the reverse; or other machines could use the
            server without a token; or a PLC without a folder.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str | None = None
    no_token: bool = False
    places: int = 32
    max_body: int = 64 << 20
    body_seconds: float = 30.0
    product: str | None = None
    data: Path | None = None
    data_bytes: int | None = None
    camera: str | None = None
    trigger_timeout: float | None = None
    plc: Plc | None = None

    @property
    def scheme(self) -> str:
        """``https`` with a certificate, else ``http``."""
        return "http" if self.tls_cert is None else "https"

    @property
    def known_hosts(self) -> frozenset[str] | None:
        """The names by which the server may be asked.

        None for any name: with a token, and for an address that other machines reach.
        """
        if self.token is not None or not is_loopback(self.host):
            return None
        return frozenset({_LOOPBACK, "127.0.0.1", "::1", self.host})

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise OptionError("`tls_cert` and `tls_key` belong together", fix="give both, or neither")
        if self.data_bytes is not None and self.data is None:
            raise OptionError("`data_gb` has no effect without `data`", fix="name a folder: `data=station`")
        if self.trigger_timeout is not None and self.camera is None:
            raise OptionError("`trigger_timeout` has no effect without `camera`", fix="leave out `trigger_timeout`")
        if self.plc is not None and self.data is None:
            raise OptionError(
                "`plc` needs `data`: verdicts wait in that folder until the PLC took them", fix="add `data=station`"
            )
        if self.no_token and is_loopback(self.host):
            raise OptionError(
                "`no_token` has no effect: other machines do not reach this address",
                received=self.host,
                fix="leave it out",
            )
        if self.no_token and self.token is not None:
            raise OptionError("`no_token` contradicts `token_file`", fix="leave out one of them")
        if not is_loopback(self.host) and self.token is None and not self.no_token:
            raise OptionError(
                f"whoever reaches '{self.host}' could send images and read verdicts",
                expected="a token, where other machines reach the server",
                fix=f"write one to a file ({_MAKE_ONE} > token.txt) and pass `token_file=token.txt`; or pass "
                "`no_token=True` where everybody on the network may use it",
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == _LOOPBACK


def read_token(path: Path | None) -> str | None:
    """Return the token in a file, or None without a file.

    Raises:
        OptionError: The file cannot be read, or holds no token that is long enough.
    """
    if path is None:
        return None
    expected = f"one line of at least {_SHORTEST_TOKEN} letters, digits and marks"
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds other characters than ASCII"
        raise OptionError(
            f"the token file '{path}' cannot be read: {reason}", expected=expected, fix=f"{_MAKE_ONE} > {path}"
        ) from error
    if len(text) < _SHORTEST_TOKEN or not text.isprintable() or " " in text:
        raise OptionError(
            f"'{path}' holds no token",
            expected=expected,
            received=f"{len(text)} characters",
            fix=f"{_MAKE_ONE} > {path}",
        )
    return text


def verdicts_path(name: str) -> str:
    """Return the path in URLs to which images are sent for a bundle."""
    return f"/v1/bundles/{quote(name, safe='')}/verdicts"


def require_names(bundles: Sequence[Path]) -> dict[str, Path]:
    """Return bundles by the names that they have in URLs: their folders', without ``.kdx``.

    Raises:
        OptionError: Two bundles have one name.
    """
    named: dict[str, Path] = {}
    for path in bundles:
        name = folder_name(path).removesuffix(".kdx")
        if name in named:
            raise OptionError(f"two bundles are named '{name}'", fix="rename one of the folders")
        named[name] = path
    return named
