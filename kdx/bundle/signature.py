"""Verifying that a bundle was signed by the holder of a key, and has not changed since.

Hashes detect damage, but not forgery: whoever alters a bundle can write new hashes. ``bundle.sig``
holds a statement and its Ed25519 signature (RFC 8032). The statement holds the hashes of
``bundle.json``, which holds the hash of every other file, and of each engine. Exactly the verified
bytes are used: the statement is parsed from the signed bytes, and the bundle from the bytes of
``bundle.json`` that were hashed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kdx.bundle.bundle import Bundle
from kdx.bundle.engine_record import PLAN, RECORD, Engine, engines_of
from kdx.bundle.keys import PublicKeys, public_keys
from kdx.bundle.manifest import SIGNATURE
from kdx.bundle.seal import SIGN_AGAIN, Seal, decode_seal
from kdx.errors import BundleError
from kdx.storage.files import sha256_bytes, sha256_file
from kdx.storage.json_records import read_record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SCHEMA = 1
ALGORITHM = "ed25519"


class SignatureFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``bundle.sig``.

    Attributes:
        schema: The version of this layout, which is signed too; a newer one is refused.
        algorithm: ``ed25519``.
        key_sha256: The fingerprint of the public key, see :func:`kdx.bundle.keys.fingerprint`.
        statement: The signed text, JSON.
        signature: The signature of :func:`signed_bytes`, Base64.
    """

    schema: int
    algorithm: str
    key_sha256: str
    statement: str
    signature: str


def read_seal(path: Path, index: bytes, keys: PublicKeys | None = None) -> Seal | None:
    """Return the signature that a bundle carries; None if it carries none and need not.

    A signature of another ``bundle.json`` is an error even where none is required: somebody
    altered the bundle by other means than kdx, which removes the signature of what it changes.

    Args:
        path: The bundle's folder.
        index: The content of its ``bundle.json``.
        keys: The trusted public keys, by one of which the bundle must be signed, as for
            :func:`kdx.bundle.keys.public_keys`; None verifies the signature by no key.

    Raises:
        BundleError: ``bundle.json`` was altered after it was signed; or ``bundle.sig`` is damaged,
            or was written by a newer kdx; or, with keys, the bundle is not signed, or by another
            key.
        OptionError: A key cannot be read, or the package cryptography is missing.
    """
    trusted = None if keys is None else public_keys(keys)
    file = None
    if (path / SIGNATURE).is_file():
        file = read_record(path / SIGNATURE, SignatureFile, error=BundleError, fix=SIGN_AGAIN, supported=SCHEMA)
    if trusted is not None:
        _verify(path, file, trusted)
    if file is None:
        return None
    return decode_seal(path, file.key_sha256, file.statement, sha256_bytes(index))


def _verify(path: Path, file: SignatureFile | None, trusted: Mapping[str, Ed25519PublicKey]) -> None:
    """Check that one of some keys made a signature."""
    from cryptography.exceptions import InvalidSignature

    if file is None:
        raise BundleError(
            f"'{path}' is not signed",
            expected=f"{SIGNATURE}, by {_list(trusted)}",
            received="no signature",
            fix="have it signed where the key is kept (kdx sign); calibrating a bundle removes its signature",
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
        trusted[file.key_sha256].verify(signature, signed_bytes(file.schema, file.statement))
    except (InvalidSignature, ValueError) as error:  # a ValueError for invalid Base64
        raise BundleError(
            f"the signature of '{path}' is wrong",
            expected=f"one made by {file.key_sha256}",
            received=f"a {SIGNATURE} that was altered or forged",
            fix="do not use this bundle, or have it signed again",
        ) from error


def require_signed_engines(bundle: Bundle) -> None:
    """Check that the required signature covers every engine, because a plan is code for the GPU.

    Raises:
        BundleError: The signature does not cover an engine; the message names it.
    """
    if bundle.seal is None:
        return
    for engine in engines_of(bundle.path):
        fix = f"{SIGN_AGAIN}, with the engines in it; remove '{engine.path}'; or name a backend that runs no engine"
        for name, received in hashes_of(engine, bundle.path).items():
            bundle.seal.require_engine_file(name, received, fix=fix)


def hashes_of(engine: Engine, bundle: Path) -> dict[str, str]:
    """Return the hashes of an engine's record and plan by relative POSIX path, or ``none``."""
    files = (engine.path / RECORD, engine.path / PLAN)
    return {file.relative_to(bundle).as_posix(): sha256_file(file) if file.is_file() else "none" for file in files}


def signed_bytes(schema: int, statement: str) -> bytes:
    """Return what is signed, after its purpose, so that no signature for another one passes."""
    return f"kdx bundle signature {schema}\n{statement}".encode()


def _list(keys: Iterable[str]) -> str:
    return " or ".join(f"{ALGORITHM} {key}" for key in keys)
