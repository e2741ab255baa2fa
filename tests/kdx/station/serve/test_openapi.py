"""The description of the interface is valid, and answers are what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving import PNG, Client, served

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
openapi_spec_validator = pytest.importorskip("openapi_spec_validator")

jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[Client]:
    with served(tiny_bundle) as server:
        yield Client(server.url)


@pytest.fixture(scope="module")
def document(client: Client) -> Any:
    return client.get("/openapi.json").json


def test_it_is_valid(document):
    openapi_spec_validator.validate(document)


def test_it_lists_every_path_of_the_service(document):
    assert set(document["paths"]) == {
        "/v1/verdicts",
        "/v1/bundles/{name}/verdicts",
        "/v1/trigger",
        "/v1/bundles/{name}/trigger",
        "/v1/bundles",
        "/health",
        "/ready",
        "/metrics",
    }


@pytest.mark.parametrize(
    ("method", "path", "body", "of"),
    [
        ("POST", "/v1/verdicts?map=npy", "IMAGE", "/v1/verdicts"),
        ("POST", "/v1/verdicts", b"nothing", "/v1/verdicts"),
        ("POST", "/v1/bundles/other/verdicts", b"", "/v1/bundles/{name}/verdicts"),
        ("POST", "/v1/trigger", b"", "/v1/trigger"),
        ("GET", "/v1/bundles", None, "/v1/bundles"),
        ("GET", "/health", None, "/health"),
        ("GET", "/ready", None, "/ready"),
    ],
)
def test_answers_are_as_it_says(document, client, dataset, method, path, body, of):
    client.send(method, path, (dataset / "test/good/012.png").read_bytes() if body == "IMAGE" else body, PNG)
    answer = client.answer()
    described = document["paths"][of][method.lower()]["responses"][str(answer.status)]
    schema = described["content"][answer.headers["content-type"]]["schema"]
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/verdicts"), ("POST", "/v1/trigger"), ("GET", "/v1/bundles")]
)
@pytest.mark.parametrize(("header", "status"), [({"Origin": "http://elsewhere"}, 403), ({"Host": "elsewhere"}, 421)])
def test_it_describes_what_pages_of_other_sites_and_other_hosts_get(document, client, method, path, header, status):
    client.send(method, path, b"" if method == "POST" else None, {**PNG, **header})
    answer = client.answer()
    described = document["paths"][path][method.lower()]["responses"]
    if (method, status) == ("GET", 403):  # a page of another site may ask; its browser keeps the answer from it
        assert answer.status == 200
        return
    assert answer.status == status
    schema = described[str(status)]["content"][answer.headers["content-type"]]["schema"]
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(answer.json)
