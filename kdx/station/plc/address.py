"""Which PLC verdicts are written to, and where in its memory, as users say it in a URL."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

from kdx.errors import OptionError

# The variable of the environment that holds a password: all users see the command line.
PASSWORD = "KDX_PLC_PASSWORD"  # noqa: S105
_MODBUS_PORT, _OPC_UA_PORT = 502, 4840
_REGISTERS = 1 << 16
# In which order the bytes of a float32 are sent; A is the one with the sign.
ORDERS = ("ABCD", "CDAB", "BADC", "DCBA")
POLICIES = ("Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
_MODES = ("SignAndEncrypt", "Sign")
# The longest part: Modbus writes at most 123 registers at once.
_PART_ID_BYTES, _LONGEST_PART_ID = 32, 200
_LONGEST_AGE = 86_400
_SHARED = ("part_id_bytes", "acknowledge", "max_age")
_EXPECTED = "modbus://HOST[:PORT]/REGISTER or opc.tcp://[USER@]HOST[:PORT][/PATH]?node=NODE"


@dataclass(frozen=True, kw_only=True)
class ModbusAddress:
    """Registers of a Modbus TCP server.

    Attributes:
        host: The server's host.
        port: Its port.
        register: The first holding register, counted from 0 as in the protocol.
        unit: The unit identifier.
        order: The order of a float32's bytes, one of :data:`ORDERS`.
        part_id_bytes: How many bytes the identifier of a part may have.
        acknowledges: Whether the PLC says which result it took.
        max_age: The seconds after which a result is not given to the PLC any more, or None.
    """

    host: str
    port: int
    register: int
    unit: int = 1
    order: str = "ABCD"
    part_id_bytes: int = _PART_ID_BYTES
    acknowledges: bool = True
    max_age: float | None = None


@dataclass(frozen=True, kw_only=True)
class Security:
    """How a connection by OPC UA is signed and encrypted.

    Attributes:
        policy: The security policy, one of :data:`POLICIES`.
        mode: ``SignAndEncrypt`` or ``Sign``.
        certificate: The certificate of kdx, PEM or DER.
        key: Its private key, PEM or DER.
        server_certificate: The certificate of the PLC: another server is not trusted.
    """

    policy: str
    mode: str
    certificate: Path
    key: Path
    server_certificate: Path


@dataclass(frozen=True, kw_only=True)
class OpcUaAddress:
    """Variables of an OPC UA server.

    Attributes:
        name: The server's host and port.
        url: The server's endpoint.
        node: The node below which the variables are, as ``ns=3;s=NAME`` or ``nsu=URI;s=NAME``.
        user: The user, or None.
        password: The password, or None.
        security: How the connection is secured; None for no security.
        part_id_bytes: How many bytes the identifier of a part may have.
        acknowledges: Whether the PLC says which result it took.
        max_age: The seconds after which a result is not given to the PLC any more, or None.
    """

    name: str
    url: str
    node: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    security: Security | None = None
    part_id_bytes: int = _PART_ID_BYTES
    acknowledges: bool = True
    max_age: float | None = None


PlcAddress: TypeAlias = ModbusAddress | OpcUaAddress


def parse_plc(url: str) -> PlcAddress:
    """Return the PLC that a URL names.

    Args:
        url: ``modbus://HOST[:PORT]/REGISTER`` or ``opc.tcp://[USER@]HOST[:PORT][/PATH]?node=NODE``,
            with more options.

    Raises:
        OptionError: It is another text, or an option is unknown, invalid or without effect.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise OptionError(f"`plc` is not a URL: {error}", expected=_EXPECTED, received=url) from error
    if parts.scheme not in {"modbus", "opc.tcp"} or not parts.hostname or parts.fragment:
        raise OptionError("`plc` does not name a PLC", expected=_EXPECTED, received=url)
    if parts.password is not None:
        raise OptionError(
            "`plc` holds a password, which every user of this machine could see",
            fix=f"leave it out, and set the variable {PASSWORD} of the environment",
        )
    if parts.username is None and os.environ.get(PASSWORD):
        raise OptionError(
            f"the password in {PASSWORD} has no effect: `plc` names no user", received=url, fix=f"unset {PASSWORD}"
        )
    if parts.scheme == "modbus":
        return _modbus(url, parts, _MODBUS_PORT if port is None else port)
    return _opc_ua(url, parts, _OPC_UA_PORT if port is None else port)


def _modbus(url: str, parts: SplitResult, port: int) -> ModbusAddress:
    if parts.username is not None:
        raise OptionError("`plc` names a user, and Modbus has no users", received=url, fix="leave the user out")
    options = _options(url, parts, ("unit", "order", *_SHARED))
    order = options.get("order", ModbusAddress.order)
    if order not in ORDERS:
        raise _invalid(url, "order", ", ".join(ORDERS))
    part_id_bytes = _part_id_bytes(url, options)
    last = _REGISTERS - registers(part_id_bytes)
    return ModbusAddress(
        host=parts.hostname or "",
        port=port,
        register=_whole(url, "the register", parts.path.removeprefix("/"), 0, last),
        unit=_whole(url, "unit", options.get("unit", "1"), 0, 255),
        order=order,
        part_id_bytes=part_id_bytes,
        acknowledges=_acknowledges(url, options),
        max_age=_max_age(url, options),
    )


def _opc_ua(url: str, parts: SplitResult, port: int) -> OpcUaAddress:
    files = ("certificate", "key", "server_certificate")
    options = _options(url, parts, ("node", "policy", "mode", *files, *_SHARED))
    if not options.get("node"):
        raise OptionError(
            "`plc` does not name the node below which the PLC's variables are",
            expected='such as ?node=ns=3;s="kdx"',
            received=url,
        )
    security = _security(url, options, files)
    user, password = None if parts.username is None else unquote(parts.username), os.environ.get(PASSWORD)
    if user is not None and not password:
        raise OptionError(f"`plc` names a user without a password in {PASSWORD}", received=url, fix=f"set {PASSWORD}")
    if user is not None and security is None:
        raise OptionError(
            "the user's password would cross the network readable", received=url, fix="add `policy` and certificates"
        )
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return OpcUaAddress(
        name=f"{host}:{port}",
        url=f"opc.tcp://{host}:{port}{parts.path}",
        node=options["node"],
        user=user,
        password=password,
        security=security,
        part_id_bytes=_part_id_bytes(url, options),
        acknowledges=_acknowledges(url, options),
        max_age=_max_age(url, options),
    )


def _security(url: str, options: Mapping[str, str], files: tuple[str, ...]) -> Security | None:
    """Return how a connection is secured: by everything that this takes, or not at all."""
    if "policy" not in options:
        for name in ("mode", *files):
            if name in options:
                raise OptionError(f"`plc` has {name}, which has no effect without policy", received=url)
        return None
    policy, mode = options["policy"], options.get("mode", _MODES[0])
    if policy not in POLICIES:
        raise _invalid(url, "policy", ", ".join(POLICIES))
    if mode not in _MODES:
        raise _invalid(url, "mode", " or ".join(_MODES))
    paths = {}
    for name in files:
        if name not in options or not Path(options[name]).is_file():
            received = options.get(name, "nothing")
            raise OptionError(
                f"`plc` has policy, and no file for {name}", expected="a PEM or DER file", received=received
            )
        paths[name] = Path(options[name])
    return Security(policy=policy, mode=mode, **paths)


def registers(part_id_bytes: int) -> int:
    """Return how many registers kdx uses: 8, and those of a part's identifier."""
    return 8 + part_id_bytes // 2


def _options(url: str, parts: SplitResult, known: tuple[str, ...]) -> dict[str, str]:
    """Return the options in the query of a URL."""
    options: dict[str, str] = {}
    for pair in parts.query.split("&") if parts.query else ():
        name, has_value, value = pair.partition("=")
        if name not in known or not has_value:
            raise OptionError(f"`plc` has an unknown option: {name}", expected=f"{', '.join(known)}, each with a value")
        if name in options:
            raise OptionError(f"`plc` says {name} twice", received=url, fix="leave out one of them")
        options[name] = unquote(value)
    return options


def _part_id_bytes(url: str, options: Mapping[str, str]) -> int:
    text = options.get("part_id_bytes", str(_PART_ID_BYTES))
    number = _whole(url, "part_id_bytes", text, 2, _LONGEST_PART_ID)
    if number % 2:
        raise _invalid(url, "part_id_bytes", "an even number: a register holds two bytes")
    return number


def _acknowledges(url: str, options: Mapping[str, str]) -> bool:
    text = options.get("acknowledge", "yes")
    if text not in {"yes", "no"}:
        raise _invalid(url, "acknowledge", "yes or no")
    return text == "yes"


def _max_age(url: str, options: Mapping[str, str]) -> float | None:
    if "max_age" not in options:
        return None
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(options["max_age"])) <= _LONGEST_AGE:
            return seconds
    raise _invalid(url, "max_age", f"seconds, above 0 and up to {_LONGEST_AGE}")


def _whole(url: str, name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise _invalid(url, name, f"a whole number from {least} to {most}")
    return int(text)


def _invalid(url: str, name: str, expected: str) -> OptionError:
    return OptionError(f"`plc` is invalid: {name}", expected=expected, received=url)
