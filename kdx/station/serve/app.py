"""The service: which request is answered by what."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from kdx.errors import BackendError, KdxError, OptionError
from kdx.station.names import product_pattern
from kdx.station.serve.access import Access
from kdx.station.serve.answers import Asked, VerdictAnswer
from kdx.station.serve.camera import TriggeredCamera
from kdx.station.serve.figures import Figures
from kdx.station.serve.judge import Job, Judge, Keeper, Observer
from kdx.station.serve.live_page import LivePage
from kdx.station.serve.nobody import Nobody
from kdx.station.serve.openapi import openapi_document
from kdx.station.serve.options import ServeOptions, verdicts_path
from kdx.station.serve.problems import RefusedError, problem_response
from kdx.station.serve.requests import asked_of, read_body


class NotThereError(KdxError):
    """Nothing is at the path of a request, or it takes another method."""


class Service:
    """Answers requests with the judges of bundles.

    Args:
        judges: The judges by the name of their bundle.
        figures: What ``/metrics`` shows.
        options: The limits of requests.
        page: The live page.
        observers: They receive the records of images that no bundle judges.
        camera: The camera that requests can trigger, or None.
        keeper: It keeps the records of images that no bundle judges before they are answered, or
            None.
    """

    def __init__(
        self,
        judges: Mapping[str, Judge],
        figures: Figures,
        options: ServeOptions,
        page: LivePage,
        observers: Sequence[Observer],
        camera: TriggeredCamera | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._camera = camera
        self._judges, self._figures, self._options, self._page = judges, figures, options, page
        self._product_in_part = product_pattern(options.product)
        self._nobody = Nobody(observers, figures, options.places, keeper)
        self._openapi = msgspec.json.encode(openapi_document(judges))

    @property
    def app(self) -> Starlette:
        """The service as an application for a web server."""
        routes = [
            Route("/v1/bundles", self.bundles),
            Route("/v1/verdicts", self.verdict, methods=["POST"]),
            Route("/v1/bundles/{name}/verdicts", self.verdict, methods=["POST"]),
            Route("/v1/trigger", self.trigger, methods=["POST"]),
            Route("/v1/bundles/{name}/trigger", self.trigger, methods=["POST"]),
            Route("/health", self.health),
            Route("/ready", self.ready),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
            *self._page.routes,
        ]
        access = Middleware(Access, token=self._options.token, hosts=self._options.known_hosts)
        answers: Any = {RefusedError: _refused, HTTPException: _not_there, ClientDisconnect: _gone, Exception: _fault}
        return Starlette(routes=routes, middleware=[access], exception_handlers=answers)

    async def verdict(self, request: Request) -> Response:
        """Judge the image in a request."""
        came = time.monotonic()  # the body may take seconds, and the part moves on
        judge, asked = self._chosen(request)
        places = self._nobody.places if judge is None else judge.places
        with places.take():
            body = await read_body(request, self._options.max_body, self._options.body_seconds)
            job = Job(body, asked, came)
            if judge is None:
                raise await run_in_threadpool(self._nobody.refusal, job, self._judges)
            answer = await _unless_gone(request, judge.submit(job))
            if answer is None:
                job.forget()
                raise ClientDisconnect
        return _json(answer)

    async def trigger(self, request: Request) -> Response:
        """Take a frame of the camera, and judge it."""
        came = time.monotonic()
        judge, asked = self._chosen(request, is_trigger=True)
        if self._camera is None:
            error = OptionError("this server has no camera", fix="start it with one: kdx serve BUNDLE --camera SOURCE")
            raise RefusedError(HTTPStatus.NOT_FOUND, error)
        if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
            error = OptionError(
                "a trigger has no body: the camera takes the image", fix="send the image to .../verdicts"
            )
            raise RefusedError(HTTPStatus.BAD_REQUEST, error, {"Connection": "close"})
        if judge is None:
            raise await run_in_threadpool(self._nobody.refusal, Job(b"", asked, came), self._judges)
        with judge.places.take():
            shot = await asyncio.wrap_future(self._camera.take())
            job = Job(shot.data, asked, came, shot.info)
            if shot.error is not None:
                raise await asyncio.wrap_future(judge.miss(job, shot.error))
            # Judged whether or not the client is still there: the part has been seen.
            judged = asyncio.wrap_future(judge.submit(job))
            return _json(await judged)

    async def bundles(self, request: Request) -> Response:
        """Say which bundles are served."""
        return _json([judge.info for judge in self._judges.values()])

    async def health(self, request: Request) -> Response:
        """Say that the process lives."""
        return _json({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Say whether the latest call of every detector worked, and the camera is there."""
        failing = [judge for judge in self._judges.values() if not judge.is_working]
        for judge in failing:
            judge.try_again()
        if failing:
            names = ", ".join(judge.name for judge in failing)
            error = BackendError(f"the latest call failed: {names}", fix="see the log of kdx serve; kdx verify BUNDLE")
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, error)
        if self._camera is not None:
            self._camera.ping()
            if (problem := self._camera.problem) is not None:
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, problem)
        return _json({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """Return the figures for Prometheus."""
        # Comparing scores takes time that requests and the PLC's heartbeat do not have.
        text = await run_in_threadpool(generate_latest, self._figures.registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, request: Request) -> Response:
        """Return the description of this interface."""
        return Response(self._openapi, media_type="application/json")

    def _product(self, asked: Asked) -> str | None:
        """Return the product that a request names, itself or by its part; None for none."""
        if asked.product is not None or self._product_in_part is None:
            return asked.product
        found = self._product_in_part.search(asked.part_id or "")
        return "" if found is None else found["product"] or ""

    def _chosen(self, request: Request, *, is_trigger: bool = False) -> tuple[Judge | None, Asked]:
        """Return what judges a request, and what it asks for; None if its product has no bundle.

        A part that no bundle judges is undecided, and is never good.
        """
        asked, name = asked_of(request, is_trigger=is_trigger), request.path_params.get("name")
        if name is not None and asked.product is not None:
            error = OptionError("`product` has no effect: the path names the bundle", received=asked.product)
            raise RefusedError(HTTPStatus.BAD_REQUEST, error)
        if name is None:
            asked = msgspec.structs.replace(asked, product=self._product(asked))
            if asked.product is not None and asked.product not in self._judges:
                return None, asked
        return self._judge(name or asked.product), asked

    def _judge(self, name: str | None) -> Judge:
        if name is None and len(self._judges) == 1:
            return next(iter(self._judges.values()))
        if name is None:
            error = OptionError(
                "several bundles are served, and the path names none",
                expected=" or ".join(verdicts_path(each) for each in self._judges),
                fix="or name the `product`",
            )
            raise RefusedError(HTTPStatus.BAD_REQUEST, error)
        if name not in self._judges:
            error = OptionError("no bundle has that name", expected=" or ".join(self._judges), received=name)
            raise RefusedError(HTTPStatus.NOT_FOUND, error)
        return self._judges[name]


async def _unless_gone(request: Request, future: Future[VerdictAnswer]) -> VerdictAnswer | None:
    """Return the answer; None if the client has gone before the turn of its image.

    Raises:
        RefusedError: The image cannot be used, or the backend failed.
    """
    answer = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(_until_gone(request))
    both: tuple[asyncio.Future[Any], ...] = (answer, gone)
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and future.cancel():
            return None
        return await answer
    finally:
        gone.cancel()
        future.cancel()  # where the server waits no longer, the image leaves the queue too


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


async def _refused(request: Request, error: RefusedError) -> Response:
    return problem_response(error)


async def _not_there(request: Request, error: HTTPException) -> Response:
    what = NotThereError(f"{request.method} {request.url.path}: {error.detail}", fix="see /openapi.json")
    return problem_response(RefusedError(error.status_code, what, error.headers))


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=HTTPStatus.NO_CONTENT)  # nobody reads it


async def _fault(request: Request, error: Exception) -> Response:
    fault = KdxError("this is a bug in kdx", fix="see the log of kdx serve")
    return problem_response(RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, fault))
