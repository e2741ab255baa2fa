"""The description of the interface (OpenAPI 3.1), from the types that the service answers with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from kdx import __version__
from kdx.decision.map_files import MAP_FORMATS
from kdx.imaging.image_files import MAX_PIXELS
from kdx.imaging.pixel_formats import PIXEL_FORMATS
from kdx.station.serve.answers import BundleInfo, VerdictAnswer
from kdx.station.serve.problems import PROBLEM, Problem, title_of
from kdx.station.serve.requests import DTYPE, PART_ID, PIXEL_FORMAT, RAW, SHAPE, STRIDE

_IMAGE_TYPES = ("image/png", "image/jpeg", "image/bmp", "image/tiff")
_REFUSALS = {
    400: "A parameter is unknown or invalid.",
    401: "The token is missing or wrong.",
    403: "A page of another site sent it.",
    404: "No bundle has that name; or none belongs to the product, and `record` says that the part is undecided.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The content type is not one of an image.",
    421: "The request names a host that this server is not.",
    422: "The image cannot be used: damaged, of the wrong size or kind, or several pictures. `record` says so.",
    500: "The backend failed. The image is undecided; `record` says so.",
    502: "The camera gave no whole frame in time. The part is undecided; `record` says so.",
    503: "Too many images wait. Send it again after the seconds in Retry-After.",
}


class _Status(msgspec.Struct, frozen=True):
    """The state of the service, as one word."""

    status: str


def openapi_document(names: Iterable[str]) -> dict[str, Any]:
    """Return the description.

    Args:
        names: The names of the bundles that are served.
    """
    types = (VerdictAnswer, Problem, list[BundleInfo], _Status)
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    answer, problem, bundles, status = schemas
    problems = {str(code): _problem(code, problem) for code in _REFUSALS}
    trigger = {
        "summary": "Take a frame of the server's camera, and judge it",
        "description": "It has no body. The server must have been started with a camera.",
        "responses": {
            "200": _response("The verdict.", answer),
            **{code: problems[code] for code in ("400", "401", "403", "404", "421", "500", "502", "503")},
        },
    }
    del problems["502"]
    judge = {
        "summary": "Judge an image",
        "description": "The body is the content of an image file, or the rows of a frame with a declared shape. Only "
        "the verdict `good` lets a part pass.",
        "requestBody": _body(),
        "responses": {"200": _response("The verdict.", answer), **problems},
    }
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "description": "The bundle.",
        "schema": {"type": "string", "enum": list(names)},
    }
    refused = {code: problems[code] for code in ("401", "421")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "kdx serve", "version": __version__, "summary": "Visual anomaly detection over HTTP."},
        "paths": {
            "/v1/bundles/{name}/verdicts": {
                "post": {**judge, "operationId": "judge", "parameters": [name, *_parameters()[1:]]}
            },
            "/v1/verdicts": {
                "post": {
                    **judge,
                    "summary": "Judge an image by the only bundle, or by that of its product",
                    "operationId": "judgeByTheOnlyBundle",
                    "parameters": _parameters(),
                }
            },
            "/v1/bundles/{name}/trigger": {
                "post": {**trigger, "operationId": "trigger", "parameters": [name, *_parameters(of_frame=False)[1:]]}
            },
            "/v1/trigger": {
                "post": {
                    **trigger,
                    "operationId": "triggerTheOnlyBundle",
                    "parameters": _parameters(of_frame=False),
                }
            },
            "/v1/bundles": _get("Which bundles are served", "bundles", _response("The bundles.", bundles), refused),
            "/health": _get(
                "Whether the process lives", "health", _response("It does.", status), {"421": problems["421"]}
            ),
            "/ready": _get(
                "Whether the latest call of every bundle worked",
                "ready",
                _response("It did.", status),
                {**refused, "503": {"description": "It did not.", "content": problems["503"]["content"]}},
            ),
            "/metrics": _get(
                "Figures for Prometheus",
                "metrics",
                {"description": "The figures.", "content": {"text/plain": {"schema": {"type": "string"}}}},
                refused,
            ),
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _body() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "contentEncoding": "binary"}}
    return {
        "required": True,
        "description": f"A file of at most {MAX_PIXELS:,} pixels; or, as {RAW}, the bytes of a frame, row by row.",
        "content": dict.fromkeys((*_IMAGE_TYPES, RAW), binary),
    }


def _parameters(*, of_frame: bool = True) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1, "maxLength": 200}
    positive = {"type": "number", "exclusiveMinimum": 0}
    shape = {"type": "string", "pattern": r"^\d+,\d+(,\d+)?$", "examples": ["480,640,3"]}
    dtype = {"type": "string", "enum": ["uint8", "uint16"], "default": "uint8"}
    pixel_format = {"type": "string", "enum": list(PIXEL_FORMATS)}
    stride = {"type": "integer", "minimum": 1}
    asked = [
        _parameter("product", "The product, which is the name of the bundle that judges.", text),
        _parameter("map", "Return the map in this format.", {"type": "string", "enum": list(MAP_FORMATS)}),
        _parameter("min_area", "The smallest area of a region, in pixels.", {"type": "number", "minimum": 0}),
        _parameter("pixel_size_um", "What a pixel shows of the part, in µm; adds areas in mm².", positive),
        _parameter("part_id", "The part that the image shows.", text),
        _parameter("image", "What the image is called.", text),
        _parameter(PART_ID, "As part_id.", text, "header"),
    ]
    if not of_frame:
        return asked
    return [
        *asked,
        _parameter("shape", f"With {RAW}: height, width and channels.", shape),
        _parameter("dtype", f"With {RAW}: the type of the values; uint16 has the low byte first.", dtype),
        _parameter("pixel_format", f"With {RAW}: the body is a camera's buffer of this pixel format.", pixel_format),
        _parameter("stride", "With pixel_format: the bytes from one row to the next.", stride),
        _parameter(SHAPE, "As shape.", shape, "header"),
        _parameter(DTYPE, "As dtype.", dtype, "header"),
        _parameter(PIXEL_FORMAT, "As pixel_format.", pixel_format, "header"),
        _parameter(STRIDE, "As stride.", stride, "header"),
    ]


def _parameter(name: str, text: str, schema: dict[str, Any], place: str = "query") -> dict[str, Any]:
    return {"name": name, "in": place, "description": text, "schema": schema}


def _response(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _problem(status: int, schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": f"{title_of(status)}. {_REFUSALS[status]}",
        "content": {PROBLEM: {"schema": schema}},
    }
    if status == 503:
        found["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return found


def _get(summary: str, name: str, response: dict[str, Any], refused: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "operationId": name, "responses": {"200": response, **refused}}}
