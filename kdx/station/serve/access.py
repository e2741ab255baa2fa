"""Who may send requests: the token, and what browsers send for pages of other sites."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import cookie_parser

from kdx.errors import KdxError
from kdx.station.serve.problems import RefusedError, problem_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

# These need no token: they reveal nothing of the line, and the page asks for the token itself.
OPEN_PATHS = frozenset({"/health", "/", "/page.css", "/page.js", "/session"})
SESSION = "kdx_session"


class AccessError(KdxError):
    """A request is not allowed."""


class Access:
    """Rejects requests that are not allowed, with a problem document, and passes on the others.

    Without a token, a server on this machine is asked by name of this machine only: a web page of
    another site could otherwise let its own name lead here, and read the answers.

    Args:
        app: What answers the others.
        token: The token that every request must have, or None.
        hosts: The names by which the server may be asked; None for any.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str] | None) -> None:
        self._app, self._hosts = app, hosts
        self._expected = None if token is None else token.encode()
        self._session = None if token is None else session_of(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject a request, or pass it on."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await problem_response(refusal)(scope, receive, send)

    def _refusal(self, scope: Scope) -> RefusedError | None:
        headers = dict(scope["headers"])
        host, origin = headers.get(b"host", b"").decode("latin-1"), headers.get(b"origin")
        if self._hosts is not None and _name_of(host) not in self._hosts:
            error = AccessError(
                "this server is not asked by that name", expected=" or ".join(sorted(self._hosts)), received=host
            )
            return RefusedError(HTTPStatus.MISDIRECTED_REQUEST, error)
        if scope["method"] not in {"GET", "HEAD"} and origin is not None:
            site = _site_of(origin.decode("latin-1"))
            if not site or site != host:
                error = AccessError("a page of another site sent this", expected=host, received=site or "no site")
                return RefusedError(HTTPStatus.FORBIDDEN, error)
        if self._expected is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            has_token = scheme.lower() == b"bearer" and secrets.compare_digest(given.strip(b" "), self._expected)
            if not (has_token or self._has_session(headers.get(b"cookie", b""))):
                error = AccessError(
                    "the token is missing or wrong",
                    expected="the header Authorization: Bearer TOKEN",
                    fix="send the content of the server's token file",
                )
                return RefusedError(HTTPStatus.UNAUTHORIZED, error, {"WWW-Authenticate": "Bearer"})
        return None

    def _has_session(self, cookies: bytes) -> bool:
        given = cookie_parser(cookies.decode("latin-1")).get(SESSION, "")
        return self._session is not None and secrets.compare_digest(given.encode(), self._session.encode())


def session_of(token: str) -> str:
    """Return what a browser keeps once it has sent the token, which does not follow from it."""
    return hmac.digest(token.encode(), b"page of kdx serve", "sha256").hex()


def _name_of(host: str) -> str:
    """Return the name in a ``Host`` header, without the port; nothing for one that is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _site_of(origin: str) -> str:
    """Return the site in an ``Origin`` header; nothing for one that is malformed."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
