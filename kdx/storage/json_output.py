"""Results as JSON: whatever a command returns, in builtins that JSON can hold.

They are for the users of a program, so the messages in them name parameters as those users give
them (:func:`kdx.text.spelled`): a command's JSON names its flags. Records that kdx reads again
stand in ``json_records.py``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import msgspec

from kdx.storage.files import remove_leftovers, write_atomic
from kdx.text import spelled

# The fields that hold messages of the library; whatever else is text is a name or a path.
_MESSAGES = frozenset(
    {
        "advice",
        "checks",
        "compact_choice",
        "error",
        "expected",
        "fix",
        "message",
        "notes",
        "reason",
        "received",
        "refused",
        "text",
        "unconfirmed",
    }
)


def encode_json(value: object, *, on_one_line: bool = False) -> bytes:
    """Return a JSON document of records, dataclasses, paths and builtins; NaN becomes null."""
    document = msgspec.json.encode(_plain(value))
    return document if on_one_line else msgspec.json.format(document, indent=2)


def write_json(path: Path, value: object) -> None:
    """Write one JSON document to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    write_atomic(path, encode_json(value) + b"\n")


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    return _for_users(msgspec.to_builtins(value, enc_hook=_path_text, str_keys=True))


def _path_text(value: object) -> str:
    """Write a path; anything else (a NumPy number, for example) would silently become text."""
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} in a record")


def _for_users(value: Any, *, is_message: bool = False) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _encodable(spelled(value) if is_message else value)
    if isinstance(value, dict):
        return {
            _encodable(key): _for_users(item, is_message=is_message or key in _MESSAGES) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_for_users(item, is_message=is_message) for item in value]
    return value


def _encodable(text: str) -> str:
    """Write out the bytes of a file name that are no text, which JSON could not hold."""
    return text.encode("utf-8", "backslashreplace").decode()
