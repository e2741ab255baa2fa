"""``kdx serve`` as a process: how it starts, what it refuses, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from tests.serving import PNG, Client

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
ON_CPU = ("--backend", "onnxruntime-cpu", "--threads", 1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can handle")
def test_sigterm_ends_it_after_what_was_accepted_is_answered(tiny_bundle, dataset):
    command = [sys.executable, "-m", "kdx", "serve", str(tiny_bundle), "--port", "0", "--json", *map(str, ON_CPU)]
    image = (dataset / "test/good/012.png").read_bytes()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert said["bundles"] == ["tiny"]
        idle, busy = Client(said["url"]), Client(said["url"])
        assert idle.get("/ready").status == 200
        busy.connection.putrequest("POST", "/v1/verdicts")
        for name, value in {**PNG, "Content-Length": len(image)}.items():
            busy.connection.putheader(name, value)
        busy.connection.endheaders(image[:100])
        idle.get("/health")  # answered after the other request was accepted
        process.send_signal(signal.SIGTERM)
        assert idle.connection.sock.recv(1) == b""  # no further request
        with pytest.raises(ConnectionRefusedError):
            Client(said["url"]).get("/health")
        busy.connection.send(image[100:])
        assert busy.answer().json["verdict"] == "good"
        _, errors = process.communicate()
    assert process.returncode == 0  # what service managers take for a clean end
    assert "ended: requests that were accepted have been answered" in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.kdx"], "missing.kdx"),
        (["BUNDLE", "--host", "0.0.0.0"], "pass --no-token"),
        (["BUNDLE", "--tls-cert", "cert.pem"], "--tls-cert and --tls-key belong together"),
        (["BUNDLE", "--token-file", "missing.txt"], "missing.txt"),
        (["BUNDLE", "BUNDLE"], "two bundles are named 'tiny'"),
        (["BUNDLE", "--plc", "modbus://plc/0"], "--plc needs --data"),
        (["BUNDLE", "--plc", "modbus://plc"], "--plc is invalid: the register"),
        (["BUNDLE", "--data-gb", "5"], "--data-gb has no effect without --data"),
        (["BUNDLE", "--host", "no.such.name.invalid", "--no-token"], "--host 127.0.0.1"),
        (["BUNDLE", "--host", "a..b", "--no-token"], "--host 127.0.0.1"),
        (["RUN"], "kdx export"),
    ],
)
def test_what_it_does_not_start_with(cli, tiny_bundle, tiny_run, arguments, said):
    given = [{"BUNDLE": tiny_bundle, "RUN": tiny_run}.get(each, each) for each in arguments]
    done = cli("serve", *given, "--port", 0, *ON_CPU, code=2)
    assert said in done.stderr


def test_a_missing_package_is_named(cli, tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "kdx.station.serve.server", raising=False)
    done = cli("serve", tiny_bundle, code=2)
    assert 'pip install "kdx[serve]"' in done.stderr
