"""With a required signature, the C library refuses the bundles that Python refuses in
test_signing.py. A library without OpenSSL refuses all of them: see test_sanitized.py."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdx.bundle.manifest import GOLDEN_MAPS, GRAPH, INDEX, SIGNATURE
from kdx.bundle.open import open_bundle
from kdx.errors import BundleError, OptionError
from kdx.storage.files import sha256_file
from tests.embed.build import CallError, Detector, missing, signatures_missing
from tests.engines import add_engine, make_record

pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'kdx[sign]'")

from kdx.bundle.keys import make_keys, private_key, public_keys
from kdx.bundle.signing import sign_bundle

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ARGUMENT_ERROR, BUNDLE_ERROR = 1, 3
WRONG = r"the signature of .* is wrong"


def never() -> str:
    raise AssertionError("a passphrase was requested")


@pytest.fixture(scope="module")
def signing_library(built, library) -> Path:
    if signatures_missing(built):
        pytest.skip(signatures_missing(built))
    return library


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> tuple[Path, Path]:
    """A private and a public key."""
    return make_keys(tmp_path_factory.mktemp("keys") / "line")[:2]


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> tuple[Path, Path]:
    """A private and a public key of somebody else."""
    return make_keys(tmp_path_factory.mktemp("keys") / "stranger")[:2]


@pytest.fixture
def signed(bundle_copy, line) -> Path:
    sign_bundle(bundle_copy, private_key(line[0], never))
    return bundle_copy


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def refused_without_a_key(library: Path, bundle: Path, said: str) -> None:
    """Check that C and Python refuse a bundle even where no signature is required."""
    with pytest.raises(BundleError, match=said) as ours:
        open_bundle(bundle)
    with pytest.raises(CallError, match=said) as caught:
        Detector(library, bundle)
    assert caught.value.status == BUNDLE_ERROR
    assert ours.value.fix in str(caught.value)


def refused(library: Path, bundle: Path, key: object, said: str, status: int = BUNDLE_ERROR) -> str:
    """Check that C and Python refuse a bundle for the same reason; return the message of C."""
    with pytest.raises((BundleError, OptionError), match=said):
        open_bundle(bundle, require_signature=key)
    with pytest.raises(CallError, match=said) as caught:
        Detector(library, bundle, require_signature=key if isinstance(key, list) else [key])
    assert caught.value.status == status
    return str(caught.value)


# Bundles as they were signed


@pytest.mark.slow
@pytest.mark.parametrize("form", ["path", "text", "several"])
def test_a_signed_bundle_decides_as_before(signing_library, signed, line, stranger, frame, form):
    keys = {"path": [line[1]], "text": [line[1].read_bytes()], "several": [stranger[1], line[1]]}[form]
    with Detector(signing_library, signed) as plain, Detector(signing_library, signed, require_signature=keys) as ours:
        assert ours(frame)[0].score == plain(frame)[0].score
        assert ours.takes.threshold == plain.takes.threshold


def test_without_the_requirement_no_key_verifies_a_signature(library, signed):
    edit(signed / SIGNATURE, signature="A" * 86 + "==")
    with Detector(library, signed) as detector:
        assert detector.selftest().passed


# Bundles that were altered, or signed by another key


def test_an_unsigned_bundle_is_refused(signing_library, bundle_copy, line):
    said = refused(signing_library, bundle_copy, line[1], "is not signed")
    assert next(iter(public_keys(line[1]))) in said
    assert "received: no signature" in said
    assert "kdx sign" in said


def test_another_key_is_refused(signing_library, signed, line, stranger):
    said = refused(signing_library, signed, stranger[1], "signed by another key")
    assert all(next(iter(public_keys(key))) in said for key in (line[1], stranger[1]))


@pytest.mark.parametrize("name", [GRAPH, GOLDEN_MAPS, "training_images.json"])
def test_a_forged_file_is_refused(signing_library, signed, line, name):
    data = (signed / name).read_bytes()
    # So that it can be read as before, where that can be: a note in an ONNX graph, or the last
    # byte.
    (signed / name).write_bytes(data + b"\x32\x01!" if name == GRAPH else data[:-1] + bytes([data[-1] ^ 1]))
    refused(signing_library, signed, line[1], "was altered")
    index = json.loads((signed / INDEX).read_text(encoding="utf-8"))
    digest = sha256_file(signed / name)
    threshold = {**index["threshold"], "graph_sha256": digest} if name == GRAPH else index["threshold"]
    edit(signed / INDEX, files={**index["files"], name: digest}, threshold=threshold)
    said = refused(signing_library, signed, line[1], r"bundle\.json .* was altered after it was signed")
    assert sha256_file(signed / INDEX) in said


def test_an_altered_index_is_refused(signing_library, signed, line):
    (signed / INDEX).write_bytes((signed / INDEX).read_bytes() + b" ")
    refused(signing_library, signed, line[1], "altered after it was signed")
    refused_without_a_key(signing_library, signed, "altered after it was signed")


def test_the_signature_of_another_bundle_is_refused(signing_library, signed, raw_bundle, tmp_path, line):
    other = Path(shutil.copytree(raw_bundle, tmp_path / "other.kdx"))
    shutil.copy(signed / SIGNATURE, other)
    refused(signing_library, other, line[1], "altered after it was signed")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"signature": "A" * 86 + "=="}, WRONG),
        ({"signature": ""}, WRONG),
        ({"signature": "no base64"}, WRONG),
        ({"schema": 0}, "there is no schema 0"),
        ({"schema": -1}, "there is no schema -1"),
        ({"schema": True}, "not valid"),
        ({"schema": 2}, "newer kdx"),
        ({"schema": 2, "signature": None}, "newer kdx"),
        ({"schema": "1"}, "not valid"),
        ({"schema": 1.5}, "not valid"),
        ({"algorithm": "none"}, "signed by another key"),
        ({"key_sha256": ""}, "signed by another key"),
        ({"statement": "{}"}, WRONG),
        ({"statement": 7}, "not valid"),
    ],
)
def test_an_altered_signature_is_refused(signing_library, signed, line, changes, said):
    edit(signed / SIGNATURE, **changes)
    refused(signing_library, signed, line[1], said)


def test_a_statement_that_was_brought_up_to_date_is_refused(signing_library, signed, line):
    edit(signed / INDEX, method="other")
    statement = json.loads(json.loads((signed / SIGNATURE).read_text(encoding="utf-8"))["statement"])
    edit(signed / SIGNATURE, statement=json.dumps({**statement, "index_sha256": sha256_file(signed / INDEX)}))
    refused(signing_library, signed, line[1], WRONG)


def test_a_stranger_cannot_sign_in_the_lines_name(signing_library, bundle_copy, line, stranger):
    sign_bundle(bundle_copy, private_key(stranger[0], never))
    edit(bundle_copy / SIGNATURE, key_sha256=next(iter(public_keys(line[1]))))
    refused(signing_library, bundle_copy, line[1], WRONG)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"{}", b"[" * 100_000])
def test_a_damaged_signature_file_is_refused(signing_library, signed, line, content):
    (signed / SIGNATURE).write_bytes(content)
    refused(signing_library, signed, line[1], "not valid")
    refused_without_a_key(signing_library, signed, "not valid")


# Keys


def test_a_signature_by_no_key_is_refused(signing_library, signed):
    refused(signing_library, signed, [], "no key is given", ARGUMENT_ERROR)


@pytest.mark.parametrize("kind", ["private", "RSA", "rubbish", "empty", "missing", "a folder"])
def test_what_is_no_public_key_is_refused(signing_library, signed, line, tmp_path, kind):
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key, said = tmp_path / "key.pem", "is not a public key"
    if kind == "private":
        key, said = line[0], "is a private key"
    elif kind == "RSA":
        rsa_key = rsa.generate_private_key(65537, 2048).public_key()
        key.write_bytes(rsa_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        said = "is a key of another kind"
    elif kind in {"missing", "a folder"}:
        said = "there is no key"
        if kind == "a folder":
            key.mkdir()
    else:
        key.write_text(
            "" if kind == "empty" else "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", encoding="utf-8"
        )
    said = refused(signing_library, signed, key, said, ARGUMENT_ERROR)
    assert str(key) in said
    # Also where another one would do.
    refused(signing_library, signed, [line[1], key], said.splitlines()[0].replace("(", r"\("), ARGUMENT_ERROR)


# Engines and compiled models


def test_engines_are_not_checked_where_none_is_run(signing_library, bundle_copy, line):
    # As in Python. The C++ test signed_engines looks for one to run: see test_sanitized.py.
    add_engine(bundle_copy, "fp16", make_record())
    sign_bundle(bundle_copy, private_key(line[0], never))
    (bundle_copy / "engines/fp16/model.plan").unlink()
    with Detector(signing_library, bundle_copy, require_signature=[line[1]]) as detector:
        assert detector.takes.backend == b"openvino"


def test_a_cache_where_others_may_write_is_refused(signing_library, signed, line, tmp_path):
    cache = tmp_path / "cache"
    for _ in range(2):
        with Detector(signing_library, signed, cache=cache, require_signature=[line[1]]) as detector:
            assert detector.selftest().passed
    assert cache.stat().st_mode & 0o777 == 0o700
    assert [file.stat().st_mode & 0o777 for file in cache.iterdir()] == [0o600]
    cache.chmod(0o777)
    with pytest.raises(CallError, match="others may write to") as caught:
        Detector(signing_library, signed, cache=cache, require_signature=[line[1]])
    assert caught.value.status == ARGUMENT_ERROR
    with Detector(signing_library, signed, cache=cache) as detector:
        assert detector.selftest().passed
