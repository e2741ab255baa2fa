"""Checking that an ONNX file holds only standard operations and its own weights.

An operation of another domain is foreign code: the library of a custom operation, or a compiled
blob (``EPContext``) that a runtime would execute. External data is a path to any file of the
machine. Both are valid ONNX, and are refused before a runtime reads the file. The file is parsed in
protobuf's wire format, because a line PC has no onnx package. The parser is strict, so that it
cannot interpret a file differently from a runtime.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdx.errors import BundleError

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})

# The fields of each message in onnx.proto that hold other messages, by number.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DOMAIN = {"node": 7, "function": 10}
_GRAPH = 7  # the field of a model
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # the fields of a tensor
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10
_LAST_FIELD = (1 << 29) - 1


class _NotOnnxError(Exception):
    pass


def require_plain_graph(data: bytes, name: str, bundle: Path) -> None:
    """Check an ONNX file's content.

    Args:
        data: The content of the file.
        name: The path of the file relative to its bundle, for the message.
        bundle: The bundle's folder, for the message.

    Raises:
        BundleError: The content is not an ONNX graph, has an operation of a domain other than
            ONNX's own, or stores a tensor in another file.
    """
    try:
        found = _first_fault(data)
    except _NotOnnxError as error:
        raise BundleError(
            f"kdx cannot load '{name}' of '{bundle}': it is not an ONNX graph", fix="export the bundle again"
        ) from error
    if found:
        raise BundleError(
            f"'{name}' of '{bundle}' could load code or files from elsewhere",
            expected="standard ONNX operations, and every weight inside the file",
            received=found,
            fix="do not use this bundle; graphs that kdx exports contain nothing of this kind",
        )


def _first_fault(data: bytes) -> str:
    """Return the first content that is not allowed, or an empty text."""
    # A stack instead of recursion, because a hostile file may nest graphs to any depth.
    pending = [("model", 0, len(data))]
    has_graph = False
    while pending:
        kind, start, end = pending.pop()
        children, domain = _CHILDREN[kind], _DOMAIN.get(kind)
        for number, wire, first, last in _fields(data, start, end):
            if kind == "tensor" and number in {_EXTERNAL_DATA, _DATA_LOCATION}:
                if number == _EXTERNAL_DATA or wire != _VARINT or last:
                    return "a tensor in another file (external data)"
            elif wire == _BYTES and number == domain:
                text = data[first:last].decode(errors="replace")
                if text not in STANDARD_DOMAINS:
                    return f"an operation of the domain '{text}'"
            elif wire == _BYTES and number in children:
                has_graph |= kind == "model" and number == _GRAPH
                pending.append((children[number], first, last))
    if not has_graph:
        raise _NotOnnxError
    return ""


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field's number, wire type, start and end; for a varint, the end is its value."""
    while position < end:
        key, position = _varint(data, position, end)
        number, wire = key >> 3, key & 7
        if not 1 <= number <= _LAST_FIELD:  # other parsers would truncate a larger number to a valid one
            raise _NotOnnxError
        if wire == _VARINT:
            value, position = _varint(data, position, end)
            yield number, wire, position, value
            continue
        if wire == _BYTES:
            length, position = _varint(data, position, end)
        elif wire in {_FIXED32, _FIXED64}:
            length = 4 if wire == _FIXED32 else 8
        else:  # groups, which ONNX does not use, or an unknown wire type
            raise _NotOnnxError
        if position + length > end:
            raise _NotOnnxError
        yield number, wire, position, position + length
        position += length


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the number that starts at a position, and the position after it."""
    value = 0
    for index in range(_VARINT_BYTES):
        if position + index >= end:
            break
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _NotOnnxError
