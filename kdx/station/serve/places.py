"""The places of requests: no more bodies are held than there are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from starlette.requests import ClientDisconnect

from kdx.errors import KdxError
from kdx.station.serve.figures import BundleFigures
from kdx.station.serve.problems import RefusedError

_HARDLY_ANY = 0.2  # the weight of the latest duration in their running mean


class BusyError(KdxError):
    """Too many requests wait for a bundle."""


class Places:
    """The places of requests for one bundle.

    Args:
        name: The bundle's name in URLs.
        count: How many requests may be received, wait or be judged at once.
        figures: The figures of the bundle.
    """

    def __init__(self, name: str, count: int, figures: BundleFigures) -> None:
        self.count = count
        self._name, self._figures = name, figures
        self._taken = 0
        self._seconds = 0.0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Take a place for a request, from before its body is received until it is answered.

        A client that goes away meanwhile is counted.

        Raises:
            RefusedError: All places are taken.
        """
        if self._taken >= self.count:
            self._figures.full.inc()
            seconds = max(1, math.ceil(self._taken * self._seconds))
            error = BusyError(
                f"all {self.count} places of '{self._name}' are taken, and the image was not judged",
                fix=f"send it again in {seconds} s, or send fewer images at once",
            )
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, error, {"Retry-After": str(seconds)})
        self._taken += 1
        self._figures.places.inc()
        try:
            yield
        except ClientDisconnect:
            self._figures.left.inc()
            raise
        finally:
            self._taken -= 1
            self._figures.places.dec()

    def add_time(self, seconds: float) -> None:
        """Take notice of how long an image took."""
        self._seconds += _HARDLY_ANY * (seconds - self._seconds)
