"""Who may use the server, and what is refused before it starts."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from kdx.errors import OptionError
from kdx.station.serve.options import ServeOptions, is_loopback, read_token, require_names, verdicts_path
from tests.serving import PNG, Client, served

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")
TOKEN = "a-token-of-sixteen-letters"


@pytest.fixture(scope="module")
def guarded(tiny_bundle: Path) -> Iterator[Any]:
    with served(tiny_bundle, token=TOKEN) as running:
        yield running


@pytest.mark.parametrize("given", [{}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}])
@pytest.mark.parametrize("path", ["/v1/bundles", "/metrics", "/ready", "/openapi.json", "/nothing"])
def test_without_the_token_nothing_is_answered(guarded, path, given):
    answer = Client(guarded.url).get(path, given)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_token_everything_is_answered(guarded, dataset, scheme):
    client = Client(guarded.url, {"Authorization": f"{scheme} {TOKEN}", "Host": "station.example"})
    image = (dataset / "test/good/012.png").read_bytes()
    assert client.post("/v1/verdicts", image).json["verdict"] == "good"
    assert client.get("/ready").status == 200


def test_whether_the_process_lives_needs_no_token(guarded):
    assert Client(guarded.url).get("/health").json == {"status": "alive"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:9", 200),
        ("[::1]:9", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        *((malformed, 421) for malformed in ("[::1", "]", "[x]")),
        ("", 421),
    ],
)
def test_without_a_token_the_server_is_asked_by_a_name_of_this_machine(tiny_bundle, unguarded, host, status):
    assert Client(unguarded.url).get("/v1/bundles", {"Host": host}).status == status


@pytest.mark.parametrize(
    ("origin", "status"), [("http://evil.example", 403), ("null", 403), ("http://[", 403), ("http://HOST", 422)]
)
def test_pages_of_other_sites_send_nothing(unguarded, origin, status):
    here = unguarded.url.removeprefix("http://")
    answer = Client(unguarded.url).post("/v1/verdicts", b"x", PNG | {"Origin": origin.replace("HOST", here)})
    assert answer.status == status


@pytest.fixture(scope="module")
def unguarded(tiny_bundle: Path) -> Iterator[Any]:
    with served(tiny_bundle) as running:
        yield running


@pytest.mark.parametrize(
    ("host", "is_own"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("pc7", False)],
)
def test_which_addresses_only_this_machine_reaches(host, is_own):
    assert is_loopback(host) is is_own


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "0.0.0.0"}, "no_token=True"),
        ({"tls_cert": Path("cert.pem")}, "belong together"),
        ({"host": "0.0.0.0", "token": TOKEN, "no_token": True}, "contradicts"),
        ({"no_token": True}, "no effect"),
        ({"data_bytes": 10**9}, "no effect without `data`"),
    ],
)
def test_options_that_are_not_safe_are_refused(options, said):
    with pytest.raises(OptionError, match=said):
        ServeOptions(**options)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"localhost", "127.0.0.1", "::1"}),
        ({"host": "0.0.0.0", "no_token": True}, None),
        ({"host": "::", "token": TOKEN}, None),
    ],
)
def test_options_that_are_safe_say_by_which_names_the_server_may_be_asked(options, names):
    assert ServeOptions(**options).known_hosts == names


@pytest.mark.parametrize("content", [b"", b"short\n", b"with blanks in the middle", b"\xff" * 20])
def test_a_file_without_a_good_token_is_refused(tmp_path, content):
    file = tmp_path / "token.txt"
    file.write_bytes(content)
    with pytest.raises(OptionError, match=r"token\.txt"):
        read_token(file)


def test_a_token_is_the_only_line_of_its_file(tmp_path):
    file = tmp_path / "token.txt"
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    assert read_token(file) == TOKEN
    with pytest.raises(OptionError, match="No such file"):
        read_token(tmp_path / "missing.txt")


def test_bundles_have_names_of_their_own():
    assert list(require_names([Path("a/tile.kdx"), Path("nut")])) == ["tile", "nut"]
    assert list(require_names([Path("tile.kdx/..")])) == [Path.cwd().name]
    assert verdicts_path("tile 5#") == "/v1/bundles/tile%205%23/verdicts"
    with pytest.raises(OptionError, match="two bundles are named 'tile'"):
        require_names([Path("a/tile.kdx"), Path("b/tile.kdx")])


def test_a_certificate_makes_the_server_speak_https(tiny_bundle, tmp_path):
    cert, key = write_certificate(tmp_path)
    with served(tiny_bundle, host="localhost", tls_cert=cert, tls_key=key) as server:
        assert server.url.startswith("https://localhost:")
        trusting = ssl.create_default_context(cafile=cert)
        assert Client(server.url, context=trusting).get("/health").status == 200
        with pytest.raises(ssl.SSLError):
            Client(server.url, context=ssl.create_default_context()).get("/health")
    key.write_text("no key", encoding="utf-8")
    with pytest.raises(OptionError, match="are not used"), served(tiny_bundle, tls_cert=cert, tls_key=key):
        pass


def test_a_port_is_one_server_s(tiny_bundle):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        said = f"port {port} of '127.0.0.1' cannot be used"
        with pytest.raises(OptionError, match=said) as caught, served(tiny_bundle, port=port):
            pass
    assert "`port=0`" in caught.value.fix


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of this machine that stands on itself, and its key."""
    pytest.importorskip("cryptography", reason="the extra sign is not installed")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files
