"""Results as JSON: whatever a command returns, in builtins that JSON can hold."""

from __future__ import annotations

import math
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import msgspec

from kdx.storage.files import tidy, write_atomic


def encode_json(value: object, *, on_one_line: bool = False) -> bytes:
    """Return a JSON document of records, dataclasses, paths and builtins; NaN becomes null."""
    document = msgspec.json.encode(_plain(value))
    return document if on_one_line else msgspec.json.format(document, indent=2)


def write_json(path: Path, value: object) -> None:
    """Write one JSON document to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tidy(path)
    write_atomic(path, encode_json(value) + b"\n")


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    return _finite(msgspec.to_builtins(value, enc_hook=_path_text, str_keys=True))


def _path_text(value: object) -> str:
    """Write a path; anything else (a NumPy number, for example) would silently become text."""
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} in a record")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        # A file name may hold bytes that are no text, which JSON could not hold.
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_finite(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
