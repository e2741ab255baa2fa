"""Key files, and the command line around signatures."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import kdx
from kdx.bundle.manifest import INDEX, SIGNATURE
from kdx.bundle.open import open_bundle
from kdx.errors import OptionError, OutputError
from kdx.storage.files import sha256_bytes
from tests.kdx.bundle.conftest import never
from tests.kdx.test_lean_import import python

pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'kdx[sign]'")

from kdx.bundle.keys import make_keys, private_key, public_keys
from kdx.bundle.signing import sign_bundle

# Keys


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_only_its_owner_may_read_a_private_key(line):
    assert stat.S_IMODE(line[0].stat().st_mode) == 0o600


def test_the_fingerprint_is_openssls(line):
    der = base64.b64decode("".join(line[1].read_text(encoding="utf-8").splitlines()[1:-1]))
    assert list(public_keys(line[1])) == [sha256_bytes(der)]


@pytest.mark.parametrize("ending", ["key", "pub"])
def test_a_key_is_never_replaced(tmp_path, ending):
    (tmp_path / f"line.{ending}").write_text("precious", encoding="utf-8")
    with pytest.raises(OutputError, match="exists already") as caught:
        make_keys(tmp_path / "line")
    assert caught.value.fix == "choose another name: a key is never replaced"
    assert [file.name for file in tmp_path.iterdir()] == [f"line.{ending}"]
    assert (tmp_path / f"line.{ending}").read_text(encoding="utf-8") == "precious"


def test_a_private_key_can_have_a_passphrase(tmp_path, bundle_copy):
    secret, public, _ = make_keys(tmp_path / "line", "open sesame")
    assert b"ENCRYPTED" in secret.read_bytes()
    sign_bundle(bundle_copy, private_key(secret, lambda: "open sesame"))
    assert open_bundle(bundle_copy, require_signature=public).seal
    with pytest.raises(OptionError, match="passphrase is wrong"):
        private_key(secret, lambda: "something else")


@pytest.mark.parametrize("keys", [[], ()])
def test_no_key_is_not_any_key(signed, keys):
    with pytest.raises(OptionError, match="no key is given"):
        kdx.load(signed, require_signature=keys)


@pytest.mark.parametrize("kind", ["private", "missing", "rubbish", "another kind", "private for public"])
def test_a_key_that_cannot_serve_is_refused(signed, line, tmp_path, kind):
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    file = tmp_path / "key"
    other = ec.generate_private_key(ec.SECP256R1())
    if kind == "rubbish":
        file.write_text("rubbish", encoding="utf-8")
    elif kind == "another kind":
        file.write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    elif kind == "private":
        file.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    if kind == "private":
        with pytest.raises(OptionError, match="another kind"):
            private_key(file, never)
        with pytest.raises(OptionError, match="not a readable private key"):
            private_key(line[1], never)
        return
    messages = {"missing": "there is no key", "rubbish": "not a public key", "private for public": "is a private key"}
    with pytest.raises(OptionError, match=messages.get(kind, "another kind")):
        kdx.load(signed, require_signature=line[0] if kind == "private for public" else file)


def test_without_cryptography_a_required_signature_is_an_error(signed, line, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    with pytest.raises(OptionError, match="cryptography") as caught:
        kdx.load(signed, require_signature=line[1])
    assert caught.value.fix == 'pip install "kdx[sign]"'
    assert open_bundle(signed)


def test_cryptography_is_imported_where_it_is_needed(signed):
    code = f"import kdx, sys; from kdx.cli.app import app; kdx.open_bundle({str(signed)!r})"
    assert python(f"{code}; print('cryptography' in sys.modules)") == "False"


# The command line


def test_a_bundle_is_signed_and_shown(cli, bundle_copy, tmp_path, dataset):
    made = cli("sign", "--new-key", tmp_path / "line", "--json").json
    assert "signed" in cli("inspect", bundle_copy).stdout
    assert cli("inspect", bundle_copy, "--json").json["signature"] is None
    signed = cli("sign", bundle_copy, "--key", made["private"], "--json").json
    assert signed["key_sha256"] == made["key_sha256"]
    assert f"by {made['key_sha256']}" in cli("inspect", bundle_copy).stdout
    assert not cli("inspect", bundle_copy, "--json").json["signature"]["is_verified"]
    required = ("--require-signature", made["public"])
    shown = cli("inspect", bundle_copy, *required, "--json").json["signature"]
    assert (shown["is_verified"], shown["is_of_this_index"]) == (True, True)
    assert "(verified)" in cli("inspect", bundle_copy, *required).stdout
    cli("predict", bundle_copy, dataset / "test/good", "--backend", "onnxruntime-cpu", *required)
    cli("verify", bundle_copy, "--backend", "onnxruntime-cpu", *required)
    (bundle_copy / INDEX).write_bytes((bundle_copy / INDEX).read_bytes() + b" ")
    assert "sign it again" in " ".join(cli("inspect", bundle_copy, code=2).stderr.split())


@pytest.mark.parametrize("command", ["predict", "verify", "inspect"])
def test_commands_refuse_what_is_not_signed(cli, bundle_copy, line, dataset, command):
    data = [dataset / "test/good"] if command == "predict" else []
    stderr = cli(command, bundle_copy, *data, "--require-signature", line[1], code=2).stderr
    assert "is not signed" in stderr
    assert "fix: " in stderr


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("BUNDLE",),
        ("--key", "KEY"),
        ("BUNDLE", "--new-key", "k"),
        ("BUNDLE", "--key", "KEY", "--new-key", "k"),
        ("BUNDLE", "--key", "KEY", "--passphrase"),
    ],
)
def test_half_a_request_is_refused(cli, bundle_copy, line, options):
    arguments = [{"BUNDLE": bundle_copy, "KEY": line[0]}.get(each, each) for each in options]
    assert "kdx sign BUNDLE --key" in cli("sign", *arguments, code=2).stderr
    assert not (bundle_copy / SIGNATURE).exists()


def test_the_passphrase_comes_from_the_environment(cli, bundle_copy, tmp_path, monkeypatch):
    monkeypatch.setenv("KDX_KEY_PASSPHRASE", "open sesame")
    made = cli("sign", "--new-key", tmp_path / "line", "--passphrase", "--json").json
    assert b"ENCRYPTED" in Path(made["private"]).read_bytes()
    cli("sign", bundle_copy, "--key", made["private"])
    assert open_bundle(bundle_copy, require_signature=made["public"]).seal
    monkeypatch.delenv("KDX_KEY_PASSPHRASE")
    assert "set KDX_KEY_PASSPHRASE" in cli("sign", bundle_copy, "--key", made["private"], code=2).stderr


def test_ctrl_c_at_the_passphrase_is_no_bug(cli, tmp_path, monkeypatch):
    import typer

    def interrupted(*_: object, **__: object) -> str:
        raise typer.Abort

    monkeypatch.delenv("KDX_KEY_PASSPHRASE", raising=False)
    monkeypatch.setattr("kdx.cli.sign.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(typer, "prompt", interrupted)
    assert "interrupted" in cli("sign", "--new-key", tmp_path / "line", "--passphrase", code=None).stderr
    assert not (tmp_path / "line.key").exists()


def test_an_uncalibrated_bundle_is_signed_with_a_warning(cli, raw_bundle, tmp_path, line):
    bundle = shutil.copytree(raw_bundle, tmp_path / "raw.kdx")
    assert "not calibrated" in cli("sign", bundle, "--key", line[0]).stderr
