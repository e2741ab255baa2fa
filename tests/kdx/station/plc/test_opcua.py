"""Results and the heartbeat reach the variables of an OPC UA server."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdx.errors import OptionError
from kdx.station.database import FILE
from kdx.station.ledger import Ledger
from kdx.station.plc.address import PASSWORD as VARIABLE
from kdx.station.plc.address import OpcUaAddress, Security, parse_plc
from kdx.station.plc.connecting import plc_at
from kdx.station.plc.plc import PlcRefusesError
from kdx.station.status import Status
from tests.kdx.station.plc.opcua_server import NAMESPACE, PASSWORD, USER, Server
from tests.kdx.station.plc.test_link import Line, post, without_numbers

pytest.importorskip("asyncua", reason="the extra plc is not installed")


def write_certificate(folder: Path, name: str, uri: str, key: Any) -> None:
    """Write a certificate that signs itself, and its key."""
    from asyncua.crypto import cert_gen
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID

    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    names = [x509.UniformResourceIdentifier(uri)] if uri else [x509.DNSName("localhost")]
    made = cert_gen.generate_self_signed_app_certificate(key, name, {}, names, uses)
    (folder / f"{name}.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / f"{name}.key.pem").write_bytes(cert_gen.dump_private_key_as_pem(key))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificates of a PLC, of kdx, and of others."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    folder = tmp_path_factory.mktemp("keys")
    ours, theirs = (rsa.generate_private_key(public_exponent=65_537, key_size=2048) for _ in range(2))
    write_certificate(folder, "plc", "urn:plc", theirs)
    for name, uri in {"kdx": "urn:kdx", "other": "urn:other", "nameless": ""}.items():
        write_certificate(folder, name, uri, ours)
    return folder


@pytest.fixture(scope="module")
def running(keys: Path) -> Iterator[Server]:
    with Server((keys / "plc.pem", keys / "plc.key.pem")) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.reset()
    return running


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with contextlib.closing(Ledger(tmp_path / FILE, create=True)) as opened:
        yield opened


@contextlib.contextmanager
def line(ledger: Ledger, url: str) -> Iterator[Line]:
    made = Line(ledger, url)
    try:
        yield made
    finally:
        made.plc.close()


def test_results_are_taken_one_by_one(server, ledger):
    post(ledger, "good", "review", "defective")
    post(ledger, "unreadable", score=None, part_id=None)
    server.plc.takes = False
    with line(ledger, server.url()) as made:
        made.link.check()
        made.link.pulse(Status.RUNNING)
        made.step(4)
        assert server.plc.values["sequence"] == 1
        server.plc.takes = True
        server.set(acknowledge=server.plc.scan())
        made.deliver()
    assert without_numbers(server.plc.taken[:3]) == [(1, 0.25, "P-0"), (2, 0.5, "P-1"), (3, 0.75, "P-2")]
    last = server.plc.taken[3]
    assert (last.sequence, last.decision, last.part_id) == (4, 5, "")
    assert math.isnan(last.score)
    assert server.plc.beats == [(0, Status.STOPPED), (1, Status.RUNNING)]


def test_without_acknowledgement_no_such_variable_is_needed(server, ledger):
    post(ledger, "good", "defective")
    server.plc.takes = False
    with line(ledger, server.url() + "&acknowledge=no") as made:
        made.deliver()
    assert (server.plc.values["sequence"], server.plc.values["decision"]) == (2, 3)


def test_a_server_that_restarts_gets_the_rest(server, ledger):
    post(ledger, "good")
    with line(ledger, server.url()) as made:
        made.deliver()
        server.stop()
        post(ledger, "defective")
        made.step(2)
        server.start()
        made.deliver()
    assert [(one.sequence, one.decision) for one in server.plc.taken] == [(1, 1), (2, 3)]
    assert made.link.losses == 1
    assert len(made.said) == 2
    assert made.said[1] == f"the PLC at {server.name} receives verdicts again"


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("wrong_type", "the variable 'score' of .* has another type\n.*Float\n.*Double"),
        ("missing", "has no variables acknowledge"),
        ("read_only", "the variable 'heartbeat' of .* cannot be written"),
        ("nowhere", "BadNodeIdUnknown"),
    ],
)
def test_a_program_that_does_not_fit_is_named(server, ledger, block, message):
    with line(ledger, server.url(block)) as made, pytest.raises(PlcRefusesError, match=message):
        made.link.check()


def test_a_namespace_that_does_not_exist_is_named(server, ledger):
    url = server.url().replace(NAMESPACE, "urn:another")
    with line(ledger, url) as made, pytest.raises(PlcRefusesError, match="no namespace 'urn:another'"):
        made.link.check()


def secured(server: Server, keys: Path, mine: str = "kdx", theirs: str = "plc", user: str = "") -> str:
    files = f"&certificate={keys}/{mine}.pem&key={keys}/{mine}.key.pem&server_certificate={keys}/{theirs}.pem"
    return server.url(user=user) + "&policy=Basic256Sha256" + files


def test_certificates_and_a_user(server, ledger, keys, monkeypatch):
    monkeypatch.setenv(VARIABLE, PASSWORD)
    post(ledger, "good")
    with line(ledger, secured(server, keys, user=f"{USER}@")) as made:
        made.link.check()
        made.deliver()
    assert [one.decision for one in server.plc.taken] == [1]


def test_a_wrong_password_is_refused(server, ledger, keys, monkeypatch):
    monkeypatch.setenv(VARIABLE, "another one")
    with (
        line(ledger, secured(server, keys, user=f"{USER}@")) as made,
        pytest.raises(PlcRefusesError, match=r"BadIdentityToken|BadUserAccessDenied"),
    ):
        made.link.check()


def test_another_server_is_not_trusted(server, ledger, keys):
    post(ledger, "good")
    with line(ledger, secured(server, keys, theirs="other")) as made:
        made.plc._seconds = 0.2  # the server does not understand what is encrypted for another one
        made.link.check()
        made.step()
    (text,) = made.said
    assert "is its certificate the one in `plc`?" in text
    assert server.plc.beats == []
    assert server.plc.taken == []


@pytest.mark.parametrize("code", ["BadCertificateTimeInvalid", "BadCertificateRevoked", "BadCertificateUntrusted"])
def test_a_certificate_that_the_plc_does_not_take_is_a_refusal(code):
    from asyncua.ua import uaerrors

    refused = plc_at(parse_plc("opc.tcp://plc/?node=i=1"))._refused(getattr(uaerrors, code)(), "")  # type: ignore[attr-defined]
    assert isinstance(refused, PlcRefusesError)
    assert "renew what has expired" in (refused.fix or "")


def test_a_certificate_without_a_uri_is_named(server, ledger, keys):
    with (
        line(ledger, secured(server, keys, mine="nameless")) as made,
        pytest.raises(PlcRefusesError, match=r"names no application"),
    ):
        made.link.check()


def test_a_url_names_variables(keys, monkeypatch):
    assert parse_plc('opc.tcp://plc/?node=ns=3;s="kdx"') == OpcUaAddress(
        name="plc:4840", url="opc.tcp://plc:4840/", node='ns=3;s="kdx"'
    )
    monkeypatch.setenv(VARIABLE, "secret")
    url = (
        f"opc.tcp://line%203@[::1]:4841/station?node=ns=4;s=a%26b&policy=Aes256Sha256RsaPss&mode=Sign"
        f"&certificate={keys}/kdx.pem&key={keys}/kdx.key.pem&server_certificate={keys}/plc.pem"
        "&part_id_bytes=8&acknowledge=no"
    )
    files: dict[str, Any] = {"certificate": keys / "kdx.pem", "key": keys / "kdx.key.pem"}
    found = parse_plc(url)
    assert found == OpcUaAddress(
        name="[::1]:4841",
        url="opc.tcp://[::1]:4841/station",
        node="ns=4;s=a&b",
        user="line 3",
        password="secret",
        security=Security(policy="Aes256Sha256RsaPss", mode="Sign", server_certificate=keys / "plc.pem", **files),
        part_id_bytes=8,
        acknowledges=False,
    )
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("opc.tcp://plc", "does not name the node"),
        ("opc.tcp://plc/?node=", "does not name the node"),
        ("opc.tcp://plc/?node=i=1&unit=1", "unknown option: unit"),
        ("modbus://plc/0?node=i=1", "unknown option: node"),
        ("opc.tcp://plc/?node=i=1&mode=Sign", "has mode, which has no effect without policy"),
        ("opc.tcp://plc/?node=i=1&key=k.pem", "has key, which has no effect without policy"),
        ("opc.tcp://plc/?node=i=1&policy=Basic128Rsa15", "invalid: policy"),
        ("opc.tcp://plc/?node=i=1&policy=Basic256Sha256&mode=None", "invalid: mode"),
        ("opc.tcp://plc/?node=i=1&policy=Basic256Sha256", "no file for certificate"),
        ("opc.tcp://user@plc/?node=i=1", "without a password in KDX_PLC_PASSWORD"),
        ("opc.tcp://user:secret@plc/?node=i=1", "holds a password"),
        ("opc.tcp://plc/?node=i=1&part_id_bytes=0", "invalid: part_id_bytes"),
    ],
)
def test_other_texts_are_refused(url, message):
    with pytest.raises(OptionError, match=message):
        parse_plc(url)


@pytest.mark.parametrize(("user", "message"), [("user@", "would cross the network readable"), ("", "has no effect")])
def test_a_password_needs_a_user_and_security(monkeypatch, user, message):
    monkeypatch.setenv(VARIABLE, "secret")
    with pytest.raises(OptionError, match=message):
        parse_plc(f"opc.tcp://{user}plc/?node=i=1")
