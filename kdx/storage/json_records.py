"""JSON records whose layout has a version."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

import msgspec

from kdx.errors import KdxError

# The files that make a folder a training run or a bundle. The INT8 stage of a run is a run too.
RUN_INDEX = "run.json"
BUNDLE_INDEX = "bundle.json"
INT8_FOLDER = "int8"

# The errors of decoding JSON of unknown origin: text that is not UTF-8 or nested too deep raises no
# MsgspecError.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

R = TypeVar("R", bound=msgspec.Struct)


class _Versioned(msgspec.Struct):
    schema: int


def read_record(path: Path, kind: type[R], *, error: type[KdxError], fix: str, supported: int | None = None) -> R:
    """Read a record.

    Args:
        path: The JSON file, which exists.
        kind: The type of the record.
        error: The type of error to raise.
        fix: What the user can do about a damaged record.
        supported: The newest schema that is supported; None for records without a schema.

    Raises:
        KdxError: Of the given type: the record is damaged, or has a newer schema, or
            one that never existed.
    """
    return decode_record(path.read_bytes(), path, kind, error=error, fix=fix, supported=supported)


def decode_record(
    data: bytes, path: Path, kind: type[R], *, error: type[KdxError], fix: str, supported: int | None = None
) -> R:
    """Decode a record that was read from ``path`` already; see :func:`read_record`."""
    try:
        schema = msgspec.json.decode(data, type=_Versioned).schema if supported is not None else 0
        if supported is None or 1 <= schema <= supported:
            return msgspec.json.decode(data, type=kind)
    except UNREADABLE as cause:
        raise error(f"'{path}' is not valid: {describe_invalid(cause)}", fix=fix) from cause
    except KdxError as cause:  # a value that the type allows and the class does not
        raise error(
            f"'{path}' is not valid: {cause.message}", expected=cause.expected, received=cause.received, fix=fix
        ) from cause
    if schema < 1:
        raise error(
            f"'{path}' is not valid: there is no schema {schema}",
            expected=f"schema 1 to {supported}",
            received=f"schema {schema}",
            fix=fix,
        )
    raise error(
        f"'{path.parent}' was written by a newer kdx",
        expected=f"schema {supported} or older",
        received=f"schema {schema}",
        fix="update kdx on this machine",
    )


def describe_invalid(cause: BaseException) -> str:
    """Return what is wrong with JSON; fields stand in quotes, for backticks mark parameters."""
    return str(cause).replace("`", "'")


def encode_record(record: msgspec.Struct) -> bytes:
    r"""Encode a record as indented JSON; bytes that are not UTF-8 become ``\udcff``."""
    try:
        encoded = msgspec.json.encode(record)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_as_text(msgspec.to_builtins(record, str_keys=True)))
    return msgspec.json.format(encoded, indent=2) + b"\n"


def _as_text(value: object) -> object:
    """Return builtins whose strings JSON can represent."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_as_text(key): _as_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_text(item) for item in value]
    return value


def run_to_export(path: Path) -> Path:
    """Return the run folder that is exported: of an INT8 stage, the one around it."""
    return path.parent if path.name == INT8_FOLDER and (path.parent / RUN_INDEX).is_file() else path


def now() -> str:
    """Return the UTC time as records store it: ISO 8601, in seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
