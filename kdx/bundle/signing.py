"""Signatures: that a bundle comes from whoever holds a key, and is what it was then.

Hashes find damage, not forgery: whoever alters a bundle can write new hashes. ``bundle.sig`` holds a statement, with
the hash of ``bundle.json`` (which holds the hash of every other file) and of each engine that was there, and its
Ed25519 signature (RFC 8032). What is verified is what is used: the statement is parsed from the signed bytes, and the
bundle from the very bytes of ``bundle.json`` that were hashed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kdx import __version__
from kdx.bundle.bundle import Bundle, bundle_of, read_index
from kdx.bundle.engine_record import FOLDER, PLAN, RECORD, Engine, engines_of
from kdx.bundle.keys import PublicKeys, fingerprint, public_keys
from kdx.bundle.manifest import INDEX, SIGNATURE
from kdx.errors import BundleError
from kdx.storage.files import sha256_bytes, sha256_file, write_atomic
from kdx.storage.json_records import UNREADABLE, encode_record, now, read_record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEMA = 1
ALGORITHM = "ed25519"
_SIGN_AGAIN = "sign it again where the key is kept (kdx sign)"


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed.

    Attributes:
        kdx_version: The kdx that signed.
        created: UTC time, ISO 8601.
        index_sha256: Hash of ``bundle.json``.
        engines: Hash of each engine's record and plan, by relative POSIX path.
    """

    kdx_version: str
    created: str
    index_sha256: str
    engines: dict[str, str]


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``bundle.sig``.

    Attributes:
        schema: Version of this layout, which is signed too; a newer one is refused.
        algorithm: ``ed25519``.
        key_sha256: Fingerprint of the public key, see :func:`kdx.bundle.keys.fingerprint`.
        statement: The signed text, JSON.
        signature: Base64.
    """

    schema: int
    algorithm: str
    key_sha256: str
    statement: str
    signature: str


@dataclass(frozen=True)
class Seal:
    """A signature that was found.

    Attributes:
        key_sha256: Fingerprint of the key.
        statement: What it says.
    """

    key_sha256: str
    statement: Statement


def sign_bundle(path: Path, key: Ed25519PrivateKey) -> Seal:
    """Check a bundle and the engines in it, and sign both; an earlier signature is replaced.

    Raises:
        BundleError: The bundle is incomplete, altered or too new.
        BackendError: An engine's plan was altered.
    """
    index = read_index(path)
    bundle_of(path, index)
    engines: dict[str, str] = {}
    for engine in engines_of(path):
        engine.read_plan()
        engines |= _hashes(engine, path)
    statement = Statement(
        kdx_version=__version__, created=now(), index_sha256=sha256_bytes(index), engines=dict(sorted(engines.items()))
    )
    text = msgspec.json.encode(statement).decode()
    file = _File(
        schema=SCHEMA,
        algorithm=ALGORITHM,
        key_sha256=fingerprint(key.public_key()),
        statement=text,
        signature=base64.b64encode(key.sign(_signed_bytes(SCHEMA, text))).decode(),
    )
    write_atomic(path / SIGNATURE, encode_record(file))
    return Seal(file.key_sha256, statement)


def verify_signature(path: Path, index: bytes, keys: PublicKeys) -> Seal:
    """Check that a bundle is signed by one of some keys.

    Args:
        path: The bundle's folder.
        index: The content of its ``bundle.json``.
        keys: As in :func:`kdx.bundle.keys.public_keys`.

    Raises:
        BundleError: It is not signed, by another key, or was altered since.
        OptionError: A key cannot be read, or the package cryptography is missing.
    """
    trusted = public_keys(keys)
    from cryptography.exceptions import InvalidSignature

    file = _read(path)
    if file is None:
        raise BundleError(
            f"'{path}' is not signed",
            expected=f"{SIGNATURE}, by {_list(trusted)}",
            received="no signature",
            fix="have it signed where the key is kept (kdx sign); calibrating a bundle takes its signature away",
        )
    if file.algorithm != ALGORITHM or file.key_sha256 not in trusted:
        raise BundleError(
            f"'{path}' is signed by another key",
            expected=_list(trusted),
            received=f"{file.algorithm} {file.key_sha256}",
            fix="do not use this bundle unless you know that key; then name its public key",
        )
    try:
        signature = base64.b64decode(file.signature, validate=True)
        trusted[file.key_sha256].verify(signature, _signed_bytes(file.schema, file.statement))
    except (InvalidSignature, ValueError) as error:  # no base64 is a ValueError
        raise BundleError(
            f"the signature of '{path}' is wrong",
            expected=f"one made by {file.key_sha256}",
            received=f"a {SIGNATURE} that was altered or forged",
            fix="do not use this bundle, or have it signed again",
        ) from error
    seal = Seal(file.key_sha256, _statement(path, file.statement))
    received = sha256_bytes(index)
    if received != seal.statement.index_sha256:
        raise BundleError(
            f"{INDEX} of '{path}' was altered after it was signed",
            expected=f"sha256 {seal.statement.index_sha256}",
            received=f"sha256 {received}",
            fix=f"do not use this bundle, or, if you changed it, {_SIGN_AGAIN}",
        )
    return seal


def read_seal(path: Path, index: bytes) -> tuple[Seal, bool] | None:
    """Return what a bundle's signature says of itself, without any proof, and whether it is of this ``bundle.json``.

    Raises:
        BundleError: ``bundle.sig`` is damaged or of a newer kdx.
    """
    file = _read(path)
    if file is None:
        return None
    statement = _statement(path, file.statement)
    return Seal(file.key_sha256, statement), statement.index_sha256 == sha256_bytes(index)


def require_signed_engines(bundle: Bundle) -> None:
    """Check that the signature which was required of a bundle covers every engine in it: a plan is code for the GPU.

    Raises:
        BundleError: Naming the engine that it does not cover.
    """
    if bundle.seal is None:
        return
    signed = bundle.seal.statement.engines
    for engine in engines_of(bundle.path):
        for name, received in _hashes(engine, bundle.path).items():
            if signed.get(name) != received:
                raise BundleError(
                    f"'{name}' in '{bundle.path}' is not what was signed",
                    expected=f"sha256 {signed[name]}" if name in signed else f"listed in {SIGNATURE}",
                    received=f"sha256 {received}",
                    fix=f"{_SIGN_AGAIN}, with the engines in it; or remove '{engine.path}'; or name a backend "
                    "that runs no engine",
                )


def require_signed_engine(seal: Seal, engine: Engine) -> None:
    """Check that a signature covers the record that an engine is run by, which holds the hash of its plan.

    Raises:
        BundleError: It does not.
    """
    name = f"{FOLDER}/{engine.path.name}/{RECORD}"
    if seal.statement.engines.get(name) != engine.record_sha256:
        raise BundleError(
            f"'{name}' is not what was signed",
            expected=f"sha256 {seal.statement.engines.get(name, 'listed in ' + SIGNATURE)}",
            received=f"sha256 {engine.record_sha256}",
            fix=f"{_SIGN_AGAIN}, with the engines in it; or remove '{engine.path}'",
        )


def _hashes(engine: Engine, bundle: Path) -> dict[str, str]:
    files = (engine.path / RECORD, engine.path / PLAN)
    return {file.relative_to(bundle).as_posix(): sha256_file(file) if file.is_file() else "none" for file in files}


def _signed_bytes(schema: int, statement: str) -> bytes:
    """Return what is signed: beginning with what it is for, so that no signature for another purpose passes here."""
    return f"kdx bundle signature {schema}\n{statement}".encode()


def _read(path: Path) -> _File | None:
    file = path / SIGNATURE
    if not file.is_file():
        return None
    return read_record(file, _File, error=BundleError, fix=_SIGN_AGAIN, supported=SCHEMA)


def _statement(path: Path, text: str) -> Statement:
    try:
        return msgspec.json.decode(text.encode(), type=Statement)
    except UNREADABLE as error:
        raise BundleError(f"'{path / SIGNATURE}' is not valid: {error}", fix=_SIGN_AGAIN) from error


def _list(keys: Iterable[str]) -> str:
    return " or ".join(f"{ALGORITHM} {key}" for key in keys)
