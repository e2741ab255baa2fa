"""The live page at ``/``: its files, its stream of events, its pictures, and what operators say."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from http import HTTPStatus
from importlib.resources import files
from typing import TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from kdx.errors import InputError, KdxError, OutputError
from kdx.station.serve.access import SESSION, AccessError, session_of
from kdx.station.serve.judge import Judge
from kdx.station.serve.live import Live, Shift
from kdx.station.serve.options import ServeOptions
from kdx.station.serve.pictures import PNG, WEBP, heat_of, picture_of, picture_of_file
from kdx.station.serve.problems import RefusedError, refused
from kdx.station.serve.requests import read_body
from kdx.station.serve.reviews import Reviews
from kdx.station.serve.statements import ConflictError, ReviewError, Statement, Waiting
from kdx.storage.json_records import UNREADABLE, describe_invalid

_T = TypeVar("_T")
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_KEPT = {"Cache-Control": "private, max-age=3600"}  # a verdict's pictures do not change
_SECONDS_BETWEEN, _QUIET = 0.25, 60
_MOST_STREAMS = 32
_MOST_JSON = 4096


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows.

    Attributes:
        shift: The figures of the shift, and the latest verdicts.
        reviews: The queue of parts to review; None where the server keeps none.
    """

    shift: Shift
    reviews: Waiting | None


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the page sends to be let in."""

    token: str


class LivePage:
    """Answers the requests of the page.

    Args:
        judges: The judges by the name of their bundle.
        live: What every judge tells of its verdicts.
        reviews: The queue of parts to review, or None.
        options: The options of the server.
    """

    def __init__(self, judges: Mapping[str, Judge], live: Live, reviews: Reviews | None, options: ServeOptions) -> None:
        self._judges, self._live, self._reviews, self._options = judges, live, reviews, options
        self._streams = 0
        self._is_closing = False
        folder = files("kdx.station.serve") / "page"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()}

    @property
    def routes(self) -> list[Route]:
        """The paths of the page."""
        return [
            *(Route(path, self.file) for path in _FILES),
            Route("/session", self.enter, methods=["POST"]),
            Route("/live/events", self.events),
            Route("/live/shift", self.begin_shift, methods=["POST"]),
            Route("/live/verdicts/{verdict_id}/{kind:str}", self.picture),
            Route("/live/reviews/{verdict_id}", self.say, methods=["POST"]),
            Route("/live/reviews/{verdict_id}/later", self.put_off, methods=["POST"]),
            Route("/live/reviews/{verdict_id}/{kind:str}", self.picture_to_review),
        ]

    def close(self) -> None:
        """End the streams of events, so that the server can stop."""
        self._is_closing = True

    async def file(self, request: Request) -> Response:
        """Return a file of the page."""
        content, kind = self._files[request.url.path]
        return Response(content, media_type=kind, headers=_HEADERS)

    async def enter(self, request: Request) -> Response:
        """Let a browser in that has the token."""
        entry = await _json_of(request, _Entry)
        token = self._options.token
        if token is not None and not secrets.compare_digest(entry.token.strip().encode(), token.encode()):
            raise RefusedError(HTTPStatus.UNAUTHORIZED, AccessError("the token is wrong"))
        response = Response(status_code=HTTPStatus.NO_CONTENT)
        if token is not None:
            is_tls = self._options.tls_cert is not None
            response.set_cookie(SESSION, session_of(token), httponly=True, samesite="strict", secure=is_tls)
        return response

    async def events(self, request: Request) -> Response:
        """Send the state of the page, and again when it has changed."""
        if self._streams >= _MOST_STREAMS:
            error = KdxError(f"{_MOST_STREAMS} pages are open", fix="close some of them")
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, error, {"Retry-After": "10"})
        return StreamingResponse(self._states(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def begin_shift(self, request: Request) -> Response:
        """Count from now on."""
        await _json_of(request, dict)
        self._live.begin_shift()
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def picture(self, request: Request) -> Response:
        """Return the image of a late verdict, or its heat map."""
        seen, kind = self._live.find(request.path_params["verdict_id"]), request.path_params["kind"]
        is_known = seen is not None and seen.data and seen.bundle in self._judges
        if seen is None or not is_known or kind not in {"image", "heat"}:
            raise _no_picture()
        detector = self._judges[seen.bundle].detector
        try:
            drawn = await run_in_threadpool(picture_of if kind == "image" else heat_of, seen, detector)
        except KdxError as error:  # a frame of a trigger that does not fit
            raise _no_picture() from error
        if drawn is None:
            raise _no_picture()
        return Response(drawn, media_type=WEBP if kind == "image" else PNG, headers=_KEPT)

    async def picture_to_review(self, request: Request) -> Response:
        """Return the image of a part to review, or its heat map."""
        verdict_id, kind = request.path_params["verdict_id"], request.path_params["kind"]
        if self._reviews is None or kind not in {"image", "heat"}:
            raise _no_picture()
        try:
            file, bundle = await asyncio.wrap_future(self._reviews.picture(verdict_id, heat=kind == "heat"))
            if kind == "heat":
                return Response(await run_in_threadpool(file.read_bytes), media_type=PNG, headers=_KEPT)
            drawn = await run_in_threadpool(picture_of_file, file, self._judges[bundle].detector)
        except (KdxError, OSError, KeyError) as error:
            raise _no_picture() from error
        return Response(drawn, media_type=WEBP, headers=_KEPT)

    async def say(self, request: Request) -> Response:
        """Keep what an operator says of a part."""
        reviews, statement = self._kept(), await _json_of(request, Statement)
        return await _done(reviews.say(request.path_params["verdict_id"], statement))

    async def put_off(self, request: Request) -> Response:
        """Put a part at the end of the queue."""
        reviews = self._kept()
        await _json_of(request, dict)
        return await _done(reviews.put_off(request.path_params["verdict_id"]))

    def _kept(self) -> Reviews:
        if self._reviews is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, ReviewError("this server keeps no parts to review"))
        return self._reviews

    async def _states(self) -> AsyncIterator[bytes]:
        self._streams += 1
        sent: tuple[int, int] | None = None
        quiet = 0
        try:
            while not self._is_closing:
                version = self._live.version, 0 if self._reviews is None else self._reviews.version
                if version != sent:
                    sent, quiet = version, 0
                    yield b"data: " + msgspec.json.encode(await self._state()) + b"\n\n"
                elif quiet >= _QUIET:  # writing finds out whether the browser is still there
                    quiet = 0
                    yield b":\n\n"
                quiet += 1
                await asyncio.sleep(_SECONDS_BETWEEN)
        finally:
            self._streams -= 1

    async def _state(self) -> State:
        shift = await run_in_threadpool(self._live.shift)
        if self._reviews is None:
            return State(shift=shift, reviews=None)
        waiting = await asyncio.wrap_future(self._reviews.waiting())
        return State(shift=shift, reviews=waiting)


async def _done(change: Future[None]) -> Response:
    """Wait until a change of the queue is kept."""
    try:
        await asyncio.wrap_future(change)
    except ReviewError as error:
        raise RefusedError(HTTPStatus.NOT_FOUND, error) from error
    except ConflictError as error:
        raise RefusedError(HTTPStatus.CONFLICT, error) from error
    except OutputError as error:
        raise RefusedError(HTTPStatus.INSUFFICIENT_STORAGE, error) from error
    except InputError as error:
        raise refused(error) from error
    return Response(status_code=HTTPStatus.NO_CONTENT)


async def _json_of(request: Request, kind: type[_T]) -> _T:
    """Return the JSON of a request.

    A page of another site cannot send this content type without asking first.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        error = InputError("the body is not declared to be JSON", expected="the content type application/json")
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, error)
    try:
        return msgspec.json.decode(await read_body(request, _MOST_JSON, 10.0), type=kind)
    except UNREADABLE as error:
        said = InputError(f"the body is not valid: {describe_invalid(error)}")
        raise RefusedError(HTTPStatus.BAD_REQUEST, said) from error


def _no_picture() -> RefusedError:
    return RefusedError(HTTPStatus.NOT_FOUND, ReviewError("there is no such picture, or it is no longer kept"))
