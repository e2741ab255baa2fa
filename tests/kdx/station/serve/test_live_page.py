"""The live page shows what was judged, and keeps what an operator says; tried in Chromium."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import kdx
from kdx.errors import BackendError
from kdx.station.serve.figures import DriftFigures
from tests.browser import Browser, find_browser, open_browser
from tests.serving import Client, served, wait_until

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")

JSON = {"Content-Type": "application/json"}
BANDS = ("good", "review", "defective", "undecided")


@pytest.fixture(scope="module")
def station(tiny_bundle: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that has judged parts of every band, and the folder that it keeps them in."""
    images = sorted(dataset.glob("test/*/*.png"))
    data = tmp_path_factory.mktemp("station")
    with served(tiny_bundle, data=data) as server, pytest.MonkeyPatch.context() as patch:
        detector, client = server.judges["tiny"].detector, Client(server.url)
        scores = sorted(detector(kdx.read_image(file, detector.input)).score for file in images)
        detector.review_threshold, detector.threshold, detector.pixel_threshold = scores[3], scores[6], scores[0]
        for number, file in enumerate(images):
            client.post(f"/v1/verdicts?part_id=P{number}", file.read_bytes())
        client.post("/v1/verdicts", b"no image")

        def fail(batch: object) -> None:
            raise BackendError("the device is lost")

        with patch.context() as failing:
            failing.setattr(detector.backend, "run", fail)
            client.post("/v1/verdicts?part_id=LOST", images[0].read_bytes())
        yield server, data


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("no Chromium is installed")
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def state_of(url: str, headers: dict[str, str] | None = None) -> Any:
    """Return the first state that the stream of the page sends."""
    client = Client(url, headers or {})
    client.send("GET", "/live/events")
    response: http.client.HTTPResponse = client.connection.getresponse()
    assert response.status == 200
    line = response.readline()
    client.connection.close()
    return json.loads(line.removeprefix(b"data: "))


def test_every_band_has_its_own_count(station):
    server, _ = station
    (bundle,) = state_of(server.url)["shift"]["bundles"]
    assert bundle["counts"] == {"good": 4, "review": 3, "defective": 1, "undecided": 1, "unreadable": 1}
    assert bundle["p50_ms"] > 0


def test_pictures_are_of_verdicts_that_are_shown(station):
    server, _ = station
    client = Client(server.url)
    for verdict in state_of(server.url)["shift"]["latest"]:
        path = f"/live/verdicts/{verdict['verdict_id']}"
        assert client.get(f"{path}/image").body[8:12] == b"WEBP"
        heat = client.get(f"{path}/heat")
        assert heat.status == (200 if verdict["has_map"] else 404)
        assert heat.status == 404 or heat.body.startswith(b"\x89PNG")
    assert client.get("/live/verdicts/none/image").status == 404
    assert client.get(f"{path}/other").status == 404


def test_a_picture_from_before_the_bundle_was_replaced_is_shown_in_its_own_size(station):
    server, data = station
    (kept, *_) = state_of(server.url)["reviews"]["parts"]
    file = data / "images/tiny" / f"{kept['verdict_id']}.png"
    before = file.read_bytes()
    try:
        Image.new("RGB", (33, 17)).save(file)
        answer = Client(server.url).get(f"/live/reviews/{kept['verdict_id']}/image")
        assert answer.status == 200
        assert Image.open(io.BytesIO(answer.body)).size == (33, 17)
        file.write_bytes(b"no image")
        assert Client(server.url).get(f"/live/reviews/{kept['verdict_id']}/image").status == 404
    finally:
        file.write_bytes(before)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/live/reviews/none", b'{"said": "good", "who": "A"}', JSON, 404),
        ("/live/reviews/none", b'{"said": "perhaps", "who": "A"}', JSON, 400),
        ("/live/reviews/none", b'{"said": "good", "who": " "}', JSON, 422),
        ("/live/reviews/none", b"{", JSON, 400),
        ("/live/reviews/none", b'{"said": "good", "who": "A"}', {"Content-Type": "text/plain"}, 415),
        ("/live/reviews/none/later", b"{}", JSON, 404),
        ("/live/reviews/none/later", b"{}", {}, 415),
        ("/live/shift", b"{}", {}, 415),
        ("/live/shift", b" " * 5000, JSON, 413),
        ("/live/shift", b'{"":' * 1000, JSON, 400),
    ],
)
def test_what_the_page_would_not_send_is_refused(station, path, body, headers, status):
    answer = Client(station[0].url).post(path, body, headers)
    assert (answer.status, answer.json["status"]) == (status, status)


def test_a_browser_is_let_in_by_the_token(tiny_bundle):
    token = "a-token-of-sixteen-letters"
    with served(tiny_bundle, token=token) as server:
        client = Client(server.url)
        assert client.get("/").status == client.get("/page.js").status == client.get("/page.css").status == 200
        assert client.get("/live/events").status == 401
        assert client.post("/session", b'{"token": "another-token-of-letters"}', JSON).status == 401
        entered = client.post("/session", json.dumps({"token": f"{token}\n"}).encode(), JSON)
        cookie = entered.headers["set-cookie"]
        assert token not in cookie
        assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
        assert state_of(server.url, {"Cookie": cookie.partition(";")[0]})["shift"]["latest"] == []
        assert Client(server.url, {"Cookie": "kdx_session=wrong"}).get("/v1/bundles").status == 401


@pytest.mark.parametrize("alarm", [False, True])
def test_the_page_shows_an_alarm_of_drift_where_kdx_drift_raises_one(station, browser, monkeypatch, alarm):
    """The page itself compares nothing: a difference of 0.3 is no alarm where it may be chance."""
    server, _ = station
    live = server._page._live
    live.shift()  # the drift is not computed again before more verdicts
    monkeypatch.setattr(live._bundles["tiny"], "drift", DriftFigures(0.3, alarm))
    browser.open(f"{server.url}/", width=1280, dark=False)
    browser.wait_for("document.querySelectorAll('.tile').length")
    tiles = browser.run("[...document.querySelectorAll('.tile')].map(tile => tile.innerText)")
    (shown,) = [text.split("\n") for text in tiles if text.startswith("Score drift")]
    assert shown[1:] == ["0.30", "the scores have moved" if alarm else "no alarm"]
    assert browser.run("document.querySelectorAll('.tile.alarm').length") == int(alarm)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_the_page_shows_the_line(station, browser, width, dark):
    server, _ = station
    browser.open(f"{server.url}/", width=width, dark=dark)
    browser.wait_for("document.querySelectorAll('#strip li').length === 9")
    browser.wait_for("[...document.images].every(image => image.complete && image.naturalWidth)")
    shown = browser.run("[...document.querySelectorAll('.tile')].map(tile => tile.innerText)")
    assert [text.split("\n")[1] for text in shown[:5]] == ["4", "3", "1", "1", "1"]
    assert [text.split("\n")[0] for text in shown[:4]] == ["✓ Good", "? Review", "✕ Defective", "– Undecided"]
    assert "44.4 % of 9" in shown[0]
    assert "the backend failed" in browser.run("document.querySelector('#latest').innerText")
    colours = browser.run(
        "['good', 'review', 'defective', 'undecided'].map(band =>"
        " getComputedStyle(document.querySelector(`.tile.${band}`)).borderTopColor)"
    )
    assert len(set(colours)) == len(BANDS)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert browser.run(
        "[...document.querySelectorAll('button, input, select')]"
        ".every(each => each.innerText || each.labels?.length || each.ariaLabel)"
    )
    assert browser.errors == []
    assert all(url.startswith(server.url) for url in browser.requests)


def test_an_operator_reviews_by_keyboard(station, browser):
    server, data = station
    client = Client(server.url)
    browser.open(f"{server.url}/")
    browser.wait_for("document.querySelector('#review .word') !== null")
    first = browser.run("document.querySelector('#review').dataset.shown")
    browser.wait_for("!document.querySelector('#later').disabled")
    browser.press("h")
    assert browser.run("document.querySelector('.heat-switch').ariaPressed") == "false"
    browser.press("d")
    assert "Write your name first" in browser.run("document.querySelector('#outcome').innerText")
    browser.press("K", "i", "m")  # into the field that got the focus
    assert browser.run("document.activeElement.value") == "Kim"
    browser.run("document.activeElement.blur()")
    browser.press("d")
    browser.wait_for("document.querySelector('#outcome').innerText.startsWith('Kept')")
    kept = data / "reviewed/tiny/test/defective" / f"{first}.png"
    assert kept.is_file()
    browser.wait_for(f"document.querySelector('#review').dataset.shown !== '{first}'")
    second = browser.run("document.querySelector('#review').dataset.shown")
    browser.wait_for("!document.querySelector('#later').disabled")  # a part that just appeared takes no key
    browser.press("l")
    browser.wait_for(f"document.querySelector('#review').dataset.shown !== '{second}'")
    third = browser.run("document.querySelector('#review').dataset.shown")
    assert third not in {first, second}
    browser.run("setTimeout = () => 0")  # the next part that comes in the place of another is never old enough
    elsewhere = {"said": "good", "who": "Lee", "before": None}
    assert client.post(f"/live/reviews/{third}", json.dumps(elsewhere).encode(), JSON).status == 204
    browser.wait_for(f"document.querySelector('#review').dataset.shown !== '{third}'")
    browser.press("g")
    assert "look at it first" in browser.run("document.querySelector('#outcome').innerText")
    assert len(list((data / "reviewed/tiny/test/good").iterdir())) == 1  # what was said elsewhere
    again = client.post(f"/live/reviews/{third}", json.dumps(elsewhere).encode(), JSON)
    assert (again.status, again.json["error"]) == (409, "ConflictError")
    browser.press("u")
    browser.wait_for("document.querySelector('#outcome').innerText.startsWith('Taken back')")
    assert not kept.exists()
    browser.run("document.querySelector('#strip li:nth-child(3) button').click()")
    assert browser.run("document.querySelector('#h-latest').innerText") == "Chosen verdict"
    browser.press("Escape")
    assert browser.run("document.querySelector('#h-latest').innerText") == "Latest verdict"
    assert client.post("/live/shift", b"{}", JSON).status == 204
    browser.wait_for("document.querySelector('.tile.good b').innerText === '0'")
    assert browser.errors == []


def test_a_page_whose_server_has_ended_says_so(tiny_bundle, browser):
    with served(tiny_bundle) as server:
        browser.open(f"{server.url}/")
        browser.wait_for("document.querySelector('.tile.good') !== null")
        assert browser.run("document.querySelector('#connection').innerText") == "live"
        assert "no part yet" in browser.run("document.querySelector('.tile.good').innerText")
        assert "--data FOLDER" in browser.run("document.querySelector('#review').innerText")
    browser.wait_for("document.querySelector('#connection').innerText === 'connection lost'")
    assert browser.run("document.body.className") == "stale"


def test_the_server_ends_although_a_page_is_open(tiny_bundle):
    with served(tiny_bundle) as server:
        client = Client(server.url)
        client.send("GET", "/live/events")
        assert client.connection.getresponse().readline().startswith(b"data: ")
        server.should_exit = True
        wait_until(lambda: not server.server_state.connections)
