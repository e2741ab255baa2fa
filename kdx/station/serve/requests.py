"""Reading a request: what it asks for, and its body, of which no more is kept than may be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from kdx.decision.map_files import MapFormat, map_format
from kdx.decision.regions import regions_of
from kdx.errors import InputError, KdxError, OptionError
from kdx.station.serve.answers import Asked
from kdx.station.serve.problems import RefusedError, refused
from kdx.station.serve.sent_image import Buffer, Layout, layout_of

if TYPE_CHECKING:
    from starlette.requests import Request

RAW = "application/octet-stream"
PARAMETERS = (
    "map",
    "min_area",
    "pixel_size_um",
    "part_id",
    "product",
    "image",
    "shape",
    "dtype",
    "pixel_format",
    "stride",
)
PART_ID, SHAPE, DTYPE, PIXEL_FORMAT, STRIDE = "X-Part-Id", "X-Shape", "X-Dtype", "X-Pixel-Format", "X-Stride"
_OF_FRAMES = {"shape": SHAPE, "dtype": DTYPE, "pixel_format": PIXEL_FORMAT, "stride": STRIDE}
_HEADERS = {"part_id": PART_ID, **_OF_FRAMES}
_LONGEST_NAME = 200
# So many times the largest body is received, though not kept, before the connection is closed: most
# clients read an answer only after they have sent everything.
_READ_TO_ANSWER = 4
# Without the header, curl declares the body to be a form.
_SEND = "send the file itself as the body: curl --data-binary @FILE -H 'Content-Type: image/png' URL"


class BodyError(KdxError):
    """The body of a request is too large, or does not arrive."""


def asked_of(request: Request, *, is_trigger: bool = False) -> Asked:
    """Return what a request asks for.

    Args:
        request: The request.
        is_trigger: Whether it has no body, because a camera takes the image.

    Raises:
        RefusedError: A parameter is unknown or invalid, or the content type is not one of an image.
    """
    query = request.query_params
    try:
        _require_utf8(request.scope["query_string"])
        unknown = [name for name in query if name not in PARAMETERS]
        if unknown:
            raise OptionError("unknown parameter", expected=", ".join(PARAMETERS), received=unknown[0])
        for name in PARAMETERS:
            _value(request, name)  # none is given twice, also where it is not read
        if is_trigger:
            _require_no_layout(request)
        asked = Asked(
            layout=None if is_trigger else _layout(request),
            part_id=_name("part_id", _value(request, "part_id")),
            product=_name("product", query.get("product")),
            image=_name("image", query.get("image")),
            map=_map(query["map"]) if "map" in query else None,
            min_area=_number("min_area", query.get("min_area", "0")),
            pixel_size_um=_number("pixel_size_um", query["pixel_size_um"]) if "pixel_size_um" in query else None,
        )
        regions_of((), (1, 1), (1, 1), min_area=asked.min_area, pixel_size_um=asked.pixel_size_um)  # checks both
    except OptionError as error:
        raise refused(error) from error
    return asked


def _require_utf8(query: bytes) -> None:
    """Refuse a query whose bytes Starlette would replace: two parts might get one identifier."""
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError as error:
        raise OptionError(
            "the query is not UTF-8", received=repr(query)[2:250], fix="write its values in UTF-8 before `%` escapes"
        ) from error


def _layout(request: Request) -> Layout | Buffer | None:
    """Return the layout of a frame without a file format; None for the content of a file."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        error = InputError("the body is encoded", expected="no Content-Encoding", received=coding, fix=_SEND)
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, error)
    kind = request.headers.get("content-type", "image/*").partition(";")[0].strip().lower()
    if kind == RAW:
        return layout_of(*(_value(request, name) for name in _OF_FRAMES))
    if not kind.startswith("image/"):
        error = InputError(
            "the body is not declared to be an image",
            expected=f"the content type image/png, image/jpeg, image/bmp or image/tiff, or {RAW} with a shape",
            received=kind,
            fix=_SEND,
        )
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, error)
    for name in _OF_FRAMES:
        if _value(request, name) is not None:
            raise OptionError(
                f"`{name}` has no effect on an image file",
                expected=f"the content type {RAW}, for a frame without a file format",
                received=kind,
            )
    return None


def _require_no_layout(request: Request) -> None:
    """Refuse what describes a body; the content type of none says nothing."""
    for name in _OF_FRAMES:
        if _value(request, name) is not None:
            raise OptionError(f"`{name}` has no effect on a trigger: the camera takes the image", fix="leave it out")


def _value(request: Request, name: str) -> str | None:
    """Return a parameter from the query or from its header; None if it is not given.

    Raises:
        OptionError: It is given more than once with different values, or its header is not UTF-8.
    """
    header = _HEADERS.get(name)
    given = request.query_params.getlist(name)
    for text in request.headers.getlist(header) if header else ():
        try:
            given.append(text.encode("latin-1").decode())  # Starlette decodes each header as Latin-1
        except UnicodeDecodeError as error:
            raise OptionError(f"the header {header} is not UTF-8", fix=f"send `{name}` in the query") from error
    if len(set(given)) > 1:
        raise OptionError(f"`{name}` is given with different values", received=" and ".join(map(repr, given))[:250])
    return given[0] if given else None


def _name(parameter: str, text: str | None) -> str | None:
    if text is not None and not (0 < len(text) <= _LONGEST_NAME and text.isprintable()):
        raise OptionError(
            f"invalid `{parameter}`", expected=f"1 to {_LONGEST_NAME} printable characters", received=repr(text[:250])
        )
    return text


def _map(text: str) -> MapFormat:
    try:
        return map_format(text)
    except OptionError as error:  # it names the parameter of other callers, which is `maps`
        raise OptionError("invalid `map`", expected=error.expected, received=repr(text[:250])) from error


def _number(parameter: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise OptionError(f"`{parameter}` is not a number", received=repr(text[:250])) from error


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """Return the body of a request.

    Args:
        request: The request.
        most: The largest number of bytes; no more are kept in memory.
        seconds: The time within which the body must arrive.

    Raises:
        RefusedError: The body is empty, too large, or does not arrive in time.
        ClientDisconnect: The client has gone.
    """
    length = request.headers.get("content-length", "")
    declared = int(length) if length.isdecimal() else 0
    waits = request.headers.get("expect", "").lower() == "100-continue"
    if declared > (most if waits else _READ_TO_ANSWER * most):
        raise _too_large(most, f"{declared:,} bytes", {"Connection": "close"})
    try:
        body = await asyncio.wait_for(_received(request, most), seconds)
    except asyncio.TimeoutError as error:
        late = BodyError(f"the body did not arrive within {seconds:g} s", fix="send it again over a faster connection")
        raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, late, {"Connection": "close"}) from error
    if not body:
        raise refused(InputError("the body is empty", expected="an image", fix=_SEND))
    return body


async def _received(request: Request, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= most:
            parts.append(part)
        elif size <= _READ_TO_ANSWER * most:
            parts.clear()
        else:
            raise _too_large(most, f"more than {most:,} bytes", {"Connection": "close"})
    if size > most:
        raise _too_large(most, f"{size:,} bytes")
    return b"".join(parts)


def _too_large(most: int, received: str, headers: Mapping[str, str] | None = None) -> RefusedError:
    error = BodyError(
        "the body is too large",
        expected=f"at most {most:,} bytes",
        received=received,
        fix="send the image compressed (PNG or JPEG), or let the server take more: kdx serve BUNDLE --max-body MIB",
    )
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error, headers)
