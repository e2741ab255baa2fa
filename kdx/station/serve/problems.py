"""Errors over HTTP: problem documents (RFC 9457) with what an error of kdx says."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from kdx.errors import ImageError, InputError, KdxError, OptionError
from kdx.station.record import VerdictRecord

if TYPE_CHECKING:
    from starlette.responses import Response

PROBLEM = "application/problem+json"
_UNPROCESSABLE = 422  # Python before 3.13 and after it have different names for it
# The status of an error that the sender of a request can fix; of any other error it is 500.
_STATUS: tuple[tuple[type[KdxError], int], ...] = (
    (ImageError, _UNPROCESSABLE),
    (InputError, _UNPROCESSABLE),
    (OptionError, HTTPStatus.BAD_REQUEST),
)


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every answer with a status from 400.

    Attributes:
        title: The name of the HTTP status.
        status: The HTTP status.
        detail: What happened.
        error: The type of the error.
        type: ``about:blank``: the status says what kind of problem it is.
        expected: What was expected.
        received: What was received.
        fix: What the sender of the request can do.
        record: The record of the image: undecided where the backend failed, unreadable where the
            image could not be used; None where the request was wrong, and no part was judged.
    """

    title: str
    status: int
    detail: str
    error: str
    type: str = "about:blank"
    expected: str | None = None
    received: str | None = None
    fix: str | None = None
    record: VerdictRecord | None = None


class RefusedError(Exception):
    """A request that is answered with a problem document.

    Args:
        status: The HTTP status.
        error: What happened.
        headers: Further headers of the answer.
        record: As for :class:`Problem`.
    """

    def __init__(
        self,
        status: int,
        error: KdxError,
        headers: Mapping[str, str] | None = None,
        record: VerdictRecord | None = None,
    ) -> None:
        super().__init__(error.message)
        self.status, self.error, self.headers, self.record = status, error, headers, record


def refused(error: KdxError, record: VerdictRecord | None = None) -> RefusedError:
    """Return how a request is answered after an error that was raised while it was read."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return RefusedError(status, error, record=record)


def problem_of(refusal: RefusedError) -> Problem:
    """Return the problem document of a request that was refused."""
    about = refusal.error.as_dict()
    return Problem(
        title=title_of(refusal.status),
        status=refusal.status,
        detail=about["message"],
        error=about["type"],
        expected=about.get("expected"),
        received=about.get("received"),
        fix=about.get("fix"),
        record=refusal.record,
    )


def title_of(status: int) -> str:
    """Return the name of an HTTP status."""
    return "Unprocessable Content" if status == _UNPROCESSABLE else HTTPStatus(status).phrase


def problem_response(refusal: RefusedError) -> Response:
    """Return the answer to a request that was refused."""
    from starlette.responses import Response

    body = msgspec.json.encode(problem_of(refusal))
    return Response(body, refusal.status, refusal.headers, media_type=PROBLEM)
