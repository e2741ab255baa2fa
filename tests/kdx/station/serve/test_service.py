"""Verdicts over HTTP are the detector's own, and nothing that goes wrong is ever a verdict."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import io
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kdx
from kdx.errors import BackendError, BundleError, KdxError, OptionError
from kdx.station.serve.answers import Asked
from kdx.station.serve.live import NO_BUNDLE
from tests.serving import PNG, Client, Held, figure, served, wait_until

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
RAW = {"Content-Type": "application/octet-stream"}
MIB = 1 << 20


@pytest.fixture(scope="module")
def images(dataset: Path) -> list[Path]:
    return sorted(dataset.glob("test/*/*.png"))


@pytest.fixture(scope="module")
def detector(tiny_bundle: Path, images: list[Path]) -> Iterator[kdx.Detector]:
    """The detector that is served, with thresholds that its scores of the images lie between."""
    with kdx.load(tiny_bundle, "onnxruntime-cpu", 1) as loaded:
        scores = sorted(loaded(kdx.read_image(file, loaded.input)).score for file in images)
        loaded.review_threshold, loaded.threshold = scores[2], scores[5]
        loaded.pixel_threshold = scores[0] / 2
        yield loaded


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, detector: kdx.Detector) -> Iterator[Any]:
    with served(tiny_bundle, max_body=MIB) as running:
        running.judges["tiny"].detector.rule = detector.rule
        yield running


@pytest.fixture
def client(server: Any) -> Client:
    return Client(server.url)


def expected(detector: kdx.Detector, file: Path) -> dict[str, Any]:
    """Return what an answer must hold of the detector's own verdict."""
    verdict = detector(kdx.read_image(file, detector.input))
    return {
        "verdict": verdict.decision.value,
        "score": verdict.score,
        "threshold": verdict.threshold,
        "margin": verdict.margin,
        "p_value": verdict.p_value,
        "regions": [asdict(region) for region in detector.regions(verdict)],
    }


def test_500_requests_with_bad_ones_among_them_get_the_detectors_own_answers(server, detector, images):
    own = {file: expected(detector, file) for file in images}
    assert {answer["verdict"] for answer in own.values()} == {"good", "review", "defective"}
    assert any(answer["regions"] for answer in own.values())
    large = io.BytesIO()
    Image.new("L", (100, 90)).save(large, "PNG")
    bad = {
        b"": (422, "InputError"),
        b"nothing that is an image": (422, "ImageError"),
        images[0].read_bytes()[:700]: (422, "ImageError"),
        large.getvalue(): (422, "ImageError"),
        bytes(MIB + 1): (413, "BodyError"),
    }
    wrong = list(bad.items())
    before = {name: figure(server, name) for name in ("kdx_serve_refused_total", "kdx_serve_places")}

    def ask(number: int) -> tuple[int, int]:
        client, right, refused = Client(server.url), 0, 0
        for turn in range(100):
            if turn % 5 == number:
                body, (status, error) = wrong[turn // 5 % len(wrong)]
                answer = client.post("/v1/verdicts", body)
                assert (answer.status, answer.json["error"]) == (status, error)
                assert "verdict" not in answer.json
                refused += status == 422 and body != b""
            else:
                file = images[(turn + number) % len(images)]
                answer = client.post(f"/v1/bundles/tiny/verdicts?part_id={number}-{turn}", file.read_bytes())
                assert answer.status == 200
                assert answer.json["part_id"] == f"{number}-{turn}"
                assert {name: answer.json[name] for name in own[file]} == own[file]
                right += 1
        return right, refused

    with ThreadPoolExecutor(5) as clients:
        done = list(clients.map(ask, range(5)))
    assert sum(right for right, _ in done) == 400
    refused = sum(number for _, number in done)
    assert refused == figure(server, "kdx_serve_refused_total") - before["kdx_serve_refused_total"] == 60
    assert figure(server, "kdx_serve_places") == before["kdx_serve_places"] == 0


def test_a_record_says_by_what_an_image_was_judged(client, tiny_bundle, images):
    bundle = kdx.open_bundle(tiny_bundle)
    one, two = (client.post("/v1/verdicts?image=a.png", images[0].read_bytes()).json for _ in range(2))
    assert one["verdict_id"] != two["verdict_id"]
    assert one["image"] == "a.png"
    assert one["part_id"] is None
    assert one["bundle_sha256"] == bundle.index_sha256
    assert one["graph_sha256"] == bundle.manifest.files["model.onnx"]
    assert (one["backend"], one["precision"]) == ("onnxruntime-cpu", "fp32")


def test_a_part_is_named_in_utf_8_in_the_query_or_in_a_header(client, images):
    header = {"X-Part-Id": "Müller-7".encode().decode("latin-1")}  # http.client sends Latin-1
    for query in ("", "?part_id=M%C3%BCller-7"):
        answer = client.post(f"/v1/verdicts{query}", images[0].read_bytes(), PNG | header)
        assert answer.json["part_id"] == "Müller-7"


@pytest.mark.parametrize("kind", ["BMP", "JPEG", "TIFF"])
def test_files_are_read_as_predict_reads_them(client, detector, images, tmp_path, kind):
    file = tmp_path / "image"
    Image.open(images[-1]).save(file, kind)
    answer = client.post("/v1/verdicts", file.read_bytes(), {"Content-Type": f"image/{kind.lower()}"})
    assert answer.json["score"] == detector(kdx.read_image(file, detector.input)).score


def test_frames_without_a_file_format(client, detector, images):
    frame = kdx.read_image(images[-1], detector.input)
    own = detector(frame).score
    shape = {"X-Shape": ",".join(map(str, frame.shape[:2]))}
    assert client.post("/v1/verdicts", frame.tobytes(), RAW | shape).json["score"] == own
    deep = frame.astype("<u2") * 257
    answer = client.post("/v1/verdicts?shape=64,64,1&dtype=uint16", deep.tobytes(), RAW).json
    assert (answer["score"], answer.get("warnings")) == (own, None)
    dark = client.post("/v1/verdicts?shape=64,64&dtype=uint16", (deep // 100).tobytes(), RAW).json
    assert "less than a tenth of the declared range" in dark["warnings"][0]


def test_buffers_of_cameras(client, detector, images):
    frame = kdx.read_image(images[-1], detector.input)
    own = detector(frame).score
    padded = np.pad(frame[..., 0], ((0, 0), (0, 2)))
    declared = {"X-Shape": "64,64", "X-Pixel-Format": "Mono8", "X-Stride": "66"}
    assert client.post("/v1/verdicts", padded.tobytes(), RAW | declared).json["score"] == own
    deep = frame.astype("<u2") * 257
    assert client.post("/v1/verdicts?shape=64,64&pixel_format=Mono16", deep.tobytes(), RAW).json["score"] == own


@pytest.mark.parametrize("form", ["npy", "tiff", "png"])
def test_a_map_comes_with_the_answer_where_it_was_asked_for(client, detector, images, form):
    own = detector(kdx.read_image(images[-1], detector.input)).anomaly_map
    sent = client.post(f"/v1/verdicts?map={form}", images[-1].read_bytes()).json["map"]
    file = io.BytesIO(base64.b64decode(sent["data"]))
    stored = np.load(file) if form == "npy" else np.asarray(Image.open(file))
    np.testing.assert_allclose(stored * sent["scale"], own, atol=0 if form != "png" else sent["scale"])
    assert sent["covers"] == {"left": 0, "top": 0, "right": 64, "bottom": 64}


def test_regions_take_the_options_of_predict(client, detector, images):
    verdict = detector(kdx.read_image(images[-1], detector.input))
    whole = detector.regions(verdict, pixel_size_um=20)
    least = whole[0].area
    answer = client.post(f"/v1/verdicts?min_area={least}&pixel_size_um=20", images[-1].read_bytes()).json
    assert answer["regions"] == [asdict(region) for region in whole if region.area >= least]
    assert answer["regions"][0]["area_mm2"] == least * 0.02**2


@pytest.mark.parametrize(
    ("path", "headers", "status", "said"),
    [
        ("/v1/verdicts?map=jpeg", PNG, 400, "invalid `map`"),
        ("/v1/verdicts?maps=npy", PNG, 400, "unknown parameter"),
        ("/v1/verdicts?min_area=x", PNG, 400, "not a number"),
        ("/v1/verdicts?min_area=-1", PNG, 400, "0 or above"),
        ("/v1/verdicts?pixel_size_um=nan", PNG, 400, "above 0"),
        ("/v1/verdicts?part_id=", PNG, 400, "printable"),
        ("/v1/verdicts?part_id=a%0Ab", PNG, 400, "printable"),
        ("/v1/verdicts?part_id=1&part_id=2", PNG, 400, "different values"),
        ("/v1/verdicts?part_id=M%FCller", PNG, 400, "the query is not UTF-8"),
        ("/v1/verdicts", PNG | {"Content-Encoding": "gzip"}, 415, "the body is encoded"),
        ("/v1/verdicts?part_id=1", PNG | {"X-Part-Id": "2"}, 400, "different values"),
        ("/v1/verdicts?map=npy&map=png", PNG, 400, "different values"),
        ("/v1/verdicts", PNG | {"X-Part-Id": "M\xfcller"}, 400, "X-Part-Id is not UTF-8"),
        ("/v1/verdicts?shape=64,64", PNG, 400, "no effect"),
        ("/v1/verdicts", PNG | {"X-Dtype": "uint16"}, 400, "no effect"),
        ("/v1/verdicts?pixel_format=Mono8", PNG, 400, "no effect"),
        ("/v1/verdicts", PNG | {"X-Stride": "64"}, 400, "no effect"),
        ("/v1/verdicts", RAW, 400, "needs its shape"),
        ("/v1/verdicts?shape=64", RAW, 400, "HEIGHT,WIDTH"),
        ("/v1/verdicts?shape=0,64", RAW, 400, "pixels"),
        ("/v1/verdicts?shape=99999,99999", RAW, 400, "160,000,000"),
        ("/v1/verdicts?shape=2,2&dtype=float32", RAW, 400, "uint8 or uint16"),
        ("/v1/verdicts?shape=2,2", RAW, 422, "4 bytes"),
        ("/v1/verdicts?shape=64,64&pixel_format=Mono9", RAW, 400, "unknown pixel format"),
        ("/v1/verdicts?shape=64,64&stride=64", RAW, 400, "no effect"),
        ("/v1/verdicts?shape=64,64&pixel_format=Mono12p", RAW, 422, "6,144 bytes"),
        ("/v1/verdicts?shape=64,64&pixel_format=BayerRG8", RAW, 422, "takes grey images"),
        ("/v1/verdicts?shape=64,64&pixel_format=Mono8&stride=9", RAW, 400, "too small"),
        ("/v1/verdicts?shape=1,3", RAW, 422, "wrong size"),
        ("/v1/verdicts", {"Content-Type": "application/json"}, 415, "--data-binary"),
        ("/v1/bundles/other/verdicts", PNG, 404, "tiny"),
        ("/v2", PNG, 404, "/openapi.json"),
        ("/health", PNG, 405, "/openapi.json"),
    ],
)
def test_what_cannot_be_answered_is_a_problem_document(client, path, headers, status, said):
    answer = client.post(path, b"abc", headers)
    assert answer.status == answer.json["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert said in answer.body.decode()
    assert {"title", "detail", "error"} <= answer.json.keys()


@pytest.mark.parametrize(
    ("headers", "body"), [(PNG, b""), ({"Content-Type": "application/x-www-form-urlencoded"}, b"abc")]
)
def test_the_fix_for_a_body_declares_what_it_is(client, headers, body):
    """Otherwise curl declares a form."""
    said = client.post("/v1/verdicts", body, headers).body.decode()
    assert "curl --data-binary @FILE -H 'Content-Type: image/png' URL" in said


@pytest.mark.parametrize(("parts", "received"), [(3, "1,572,864 bytes"), (9, "more than 1,048,576 bytes")])
def test_a_body_that_is_too_large_is_received_to_a_limit(client, parts, received):
    client.connection.putrequest("POST", "/v1/verdicts")
    client.connection.putheader("Transfer-Encoding", "chunked")
    client.connection.endheaders()
    part = bytes(MIB // 2)
    for _ in range(parts):
        client.connection.send(b"%x\r\n%b\r\n" % (len(part), part))
    if parts < 8:
        client.connection.send(b"0\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.json["received"]) == (413, received)


@pytest.mark.parametrize("headers", [{"Expect": "100-continue"}, {"Content-Length": str(100 * MIB)}])
def test_a_body_that_is_too_large_by_its_headers_is_not_received(client, headers):
    client.send("POST", "/v1/verdicts", headers={"Content-Length": str(2 * MIB), **headers})
    answer = client.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")


def test_a_body_that_does_not_arrive_frees_its_place(tiny_bundle):
    with served(tiny_bundle, body_seconds=0.05) as server:
        client = Client(server.url)
        client.connection.putrequest("POST", "/v1/verdicts")
        client.connection.putheader("Content-Length", "10")
        client.connection.endheaders()
        assert client.answer().status == 408
        assert figure(server, "kdx_serve_places") == 0


def test_answers_do_not_wait_for_the_acknowledgement_of_their_headers(server, client):
    client.get("/health")
    for connection in server.server_state.connections:
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.fixture
def held(tiny_bundle: Path) -> Iterator[tuple[Any, Held]]:
    """A server with two places whose detector waits."""
    with served(tiny_bundle, places=2) as server:
        judge = server.judges["tiny"]
        judge.detector = Held(judge.detector)
        yield server, judge.detector
        judge.detector.may.release(10)


def test_a_full_queue_says_when_to_come_again(held, images):
    server, waiting = held
    clients = [Client(server.url) for _ in range(3)]
    for number, client in enumerate(clients[:2]):
        client.send("POST", "/v1/verdicts", images[number].read_bytes(), PNG)
    wait_until(lambda: figure(server, "kdx_serve_places") == 2)
    answer = clients[2].post("/v1/verdicts", images[2].read_bytes())
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1
    waiting.may.release(3)
    assert [client.answer().status for client in clients[:2]] == [200, 200]
    assert clients[2].post("/v1/verdicts", images[2].read_bytes()).status == 200
    assert figure(server, "kdx_serve_full_total") == 1


def test_an_image_whose_client_has_gone_is_not_judged(held, images):
    server, waiting = held
    stays, leaves = Client(server.url), Client(server.url)
    stays.send("POST", "/v1/verdicts", images[0].read_bytes(), PNG)
    wait_until(lambda: waiting.calls == 1)
    leaves.send("POST", "/v1/verdicts", images[1].read_bytes(), PNG)
    wait_until(lambda: figure(server, "kdx_serve_places") == 2)
    assert isinstance(leaves.connection.sock, socket.socket)
    leaves.connection.sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: figure(server, "kdx_serve_left_total") == 1)
    waiting.may.release(2)
    assert stays.answer().status == 200
    assert stays.post("/v1/verdicts", images[2].read_bytes()).status == 200
    assert waiting.calls == 2


@pytest.mark.parametrize("product", ["", "?product=bolt"])
def test_a_client_that_goes_while_it_sends_its_image_is_counted(tiny_bundle, product):
    with served(tiny_bundle) as server:
        client = Client(server.url)
        client.connection.putrequest("POST", f"/v1/verdicts{product}")
        client.connection.putheader("Content-Length", "10")
        client.connection.endheaders(b"half")

        def shown(figure: str) -> list[float]:
            bundle = f'{{bundle="{NO_BUNDLE if product else "tiny.kdx"}"}}'
            lines = Client(server.url).get("/metrics").body.decode().splitlines()
            return [float(line.split()[-1]) for line in lines if line.startswith(figure + bundle)]

        wait_until(lambda: shown("kdx_serve_places") == [1])
        assert isinstance(client.connection.sock, socket.socket)
        client.connection.sock.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: shown("kdx_serve_places") == [0])
        assert shown("kdx_serve_left_total") == [1]


def test_a_server_that_is_ended_at_once_judges_nothing_more(tiny_bundle, images):
    """As after a second Ctrl-C, and after the time in which the last requests are answered."""
    with served(tiny_bundle) as server:
        judge = server.judges["tiny"]
        judge.detector = waiting = Held(judge.detector)
        clients = [Client(server.url) for _ in range(3)]
        for client in clients:
            client.send("POST", "/v1/verdicts", images[0].read_bytes(), PNG)
        wait_until(lambda: judge.places._taken == 3 and waiting.calls == 1)
        wait_until(lambda: judge._thread._work_queue.qsize() == 2)
        server.should_exit = server.force_exit = True
        wait_until(lambda: judge.places._taken == 0)
        waiting.may.release(3)
    assert waiting.calls == 1


def test_requests_that_were_not_answered_in_time_are_counted_at_the_end(tiny_bundle, images, monkeypatch):
    monkeypatch.setattr("kdx.station.serve.server._SECONDS_TO_STOP", 0.0)
    with served(tiny_bundle) as server:
        assert server.ended == "ended: requests that were accepted have been answered"
        judge = server.judges["tiny"]
        judge.detector = waiting = Held(judge.detector)
        Client(server.url).send("POST", "/v1/verdicts", images[0].read_bytes(), PNG)
        wait_until(lambda: waiting.calls == 1)
        server.should_exit = True
        wait_until(lambda: judge.places._taken == 0)
        waiting.may.release()
    assert server.ended == "ended: 1 request was not answered within 0 s"


class Stuck:
    """A listening server of asyncio that waits for a connection which nobody closes."""

    def __init__(self) -> None:
        self.is_waiting, self.may = False, asyncio.Event()

    def close(self) -> None:
        pass

    async def wait_closed(self) -> None:
        self.is_waiting = True
        await self.may.wait()


def test_a_second_ctrl_c_does_not_wait_for_connections(tiny_bundle):
    with served(tiny_bundle) as server:
        wait_until(lambda: server.started)
        loop = server.servers[0].get_loop()
        stuck = Stuck()
        server.servers.append(stuck)
        server.should_exit = True
        wait_until(lambda: stuck.is_waiting)
        server.force_exit = True
        try:
            wait_until(loop.is_closed)
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(stuck.may.set)


def test_the_time_of_a_verdict_counts_from_the_request(tiny_bundle, images):
    from kdx.station.serve.judge import Job

    with served(tiny_bundle) as server:
        minute_ago = time.monotonic() - 60
        server.judges["tiny"].submit(Job(images[0].read_bytes(), Asked(), minute_ago)).result()
        (shown,) = server._page._live.shift().bundles
    assert shown.p50_ms >= 60_000


def test_a_server_that_starts_has_imported_what_its_first_answers_need():
    code = "import kdx.station.serve.server, sys; assert {'scipy.ndimage', 'scipy.stats'} <= set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metrics_that_take_long_hold_up_no_other_request(tiny_bundle, monkeypatch):
    may = threading.Event()
    monkeypatch.setattr("kdx.station.serve.app.generate_latest", lambda _: b"late" if may.wait(120) else b"")
    with served(tiny_bundle) as server:
        slow = Client(server.url)
        slow.send("GET", "/metrics")
        assert Client(server.url).get("/health").status == 200
        may.set()
        assert slow.answer().body == b"late"


class FullDisk(io.StringIO):
    """A log that cannot be written."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "log"),
    [
        (BackendError("the device is lost"), io.StringIO()),
        (KdxError("something else of kdx"), io.StringIO()),
        (BundleError("the bundle changed"), io.StringIO()),
        (RuntimeError("out of luck"), io.StringIO()),
        (RuntimeError("out of luck"), FullDisk()),
    ],
)
def test_a_backend_that_fails_leaves_the_part_undecided(tiny_bundle, images, monkeypatch, error, log):
    with served(tiny_bundle) as server:
        client, backend = Client(server.url), server.judges["tiny"].detector.backend
        assert client.get("/ready").status == 200
        with monkeypatch.context() as patch:

            def fail(batch: object) -> None:
                raise error

            patch.setattr(backend, "run", fail)
            patch.setattr(sys, "stderr", log)
            answer = client.post("/v1/verdicts?part_id=7", images[0].read_bytes())
            assert answer.status == 500
            record = answer.json["record"]
            assert (record["verdict"], record["reason"], record["part_id"]) == ("undecided", "backend_failed", "7")
            assert str(error) in record["error"]["message"]
            assert client.get("/ready").status == 503
        wait_until(lambda: client.get("/ready").status == 200)  # it was tried again
        assert client.post("/v1/verdicts", images[0].read_bytes()).status == 200
        assert figure(server, "kdx_serve_failed_total") == 1


def test_several_bundles_are_named(tiny_bundle, tmp_path, images, raw_bundle):
    other = tmp_path / "raw.kdx"
    other.symlink_to(raw_bundle)
    with served(tiny_bundle, other) as server:
        client = Client(server.url)
        data = images[0].read_bytes()
        assert client.post("/v1/bundles/tiny/verdicts", data).json["verdict"] == "good"
        unsure = client.post("/v1/bundles/raw/verdicts", data).json
        assert (unsure["verdict"], unsure["reason"], unsure["regions"]) == ("undecided", "no_threshold", None)
        answer = client.post("/v1/verdicts", data)
        assert (answer.status, answer.json["expected"]) == (
            400,
            "/v1/bundles/tiny/verdicts or /v1/bundles/raw/verdicts",
        )
        assert [each["name"] for each in client.get("/v1/bundles").json] == ["tiny", "raw"]


def test_what_could_not_be_read_has_a_record(client, images):
    answer = client.post("/v1/verdicts?part_id=7", images[0].read_bytes()[:700])
    record = answer.json["record"]
    assert (answer.status, record["verdict"], record["part_id"]) == (422, "unreadable", "7")
    assert record["image_sha256"] == hashlib.sha256(images[0].read_bytes()[:700]).hexdigest()
    assert record["bundle"] == "tiny.kdx"


@pytest.mark.parametrize("product", [None, r"^(?P<product>[a-z]+)-"])
def test_the_product_chooses_the_bundle_and_an_unknown_one_is_undecided(
    tiny_bundle, tmp_path, images, raw_bundle, product
):
    (tmp_path / "raw.kdx").symlink_to(raw_bundle)
    data = images[0].read_bytes()

    def path(name: str) -> str:
        return f"/v1/verdicts?part_id={name}-7" + ("" if product else f"&product={name}")

    with served(tiny_bundle, tmp_path / "raw.kdx", product=product, data=tmp_path / "station") as server:
        client = Client(server.url)
        for name, verdict in (("tiny", "good"), ("raw", "undecided")):
            answer = client.post(path(name), data).json
            assert (answer["verdict"], answer["product"]) == (verdict, name)
            assert answer["bundle"].startswith(name)
        answer = client.post(path("bolt"), data)
        record = answer.json["record"]
        assert (answer.status, answer.json["received"]) == (404, "bolt")
        assert (record["verdict"], record["reason"], record["product"]) == ("undecided", "no_bundle", "bolt")
        assert (record["bundle"], record["part_id"]) == (None, "bolt-7")
        if product:
            answer = client.post("/v1/verdicts?part_id=7", data)  # the part names no product
            assert (answer.status, answer.json["record"]["reason"]) == (404, "no_bundle")
        else:
            assert client.post("/v1/verdicts?part_id=7", data).status == 400
        assert client.post("/v1/bundles/tiny/verdicts?product=tiny", data).status == 400
        text = client.get("/metrics").body.decode()
        assert f"kdx_serve_no_bundle_total {2.0 if product else 1.0}" in text
    with contextlib.closing(sqlite3.connect(tmp_path / "station/reviews.sqlite")) as base:
        kept = base.execute("SELECT bundle FROM parts ORDER BY id").fetchall()
    assert kept == [("raw",), *[(NO_BUNDLE,)] * (2 if product else 1)]


def test_a_request_with_a_wrong_layout_is_no_verdict_on_a_part(tiny_bundle, tmp_path):
    """Nothing was judged and no backend failed: only the program that asks is wrong."""
    with served(tiny_bundle, data=tmp_path / "station") as server:
        client = Client(server.url)
        answer = client.post("/v1/verdicts?part_id=7&shape=64,64&pixel_format=Mono8&stride=9", b"abc", RAW)
        assert (answer.status, answer.json["error"]) == (400, "OptionError")
        assert "record" not in answer.json
        assert client.get("/ready").status == 200
        assert [figure(server, f"kdx_serve_{name}_total") for name in ("refused", "failed", "missed")] == [0, 0, 0]
        (shown,) = server._page._live.shift().bundles
        assert not any(shown.counts.values())
        queue = server._page._reviews.waiting().result()
        assert (queue.waiting, queue.lost) == (0, 0)


def test_a_product_that_is_no_expression_is_refused(tiny_bundle):
    for text in ("(", "(?P<part>x)"):
        with pytest.raises(OptionError, match="`product`"), served(tiny_bundle, product=text):
            pass
