"""Signing a bundle; :mod:`kdx.bundle.signature` says what is signed and verifies it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kdx import __version__
from kdx.bundle.engine_record import engines_of
from kdx.bundle.index import read_index
from kdx.bundle.keys import fingerprint
from kdx.bundle.manifest import SIGNATURE
from kdx.bundle.open import bundle_of
from kdx.bundle.seal import Seal, Statement
from kdx.bundle.signature import ALGORITHM, SCHEMA, SignatureFile, hashes_of, signed_bytes
from kdx.storage.files import sha256_bytes, write_atomic
from kdx.storage.json_records import encode_record, now

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def sign_bundle(path: Path, key: Ed25519PrivateKey) -> Seal:
    """Check a bundle and its engines, and sign both. An earlier signature is replaced.

    Raises:
        BundleError: The bundle is incomplete, altered or too new.
        BackendError: The plan of an engine was altered.
    """
    index = read_index(path)
    bundle_of(path, index)
    engines: dict[str, str] = {}
    for engine in engines_of(path):
        engine.read_plan()
        engines |= hashes_of(engine, path)
    statement = Statement(
        kdx_version=__version__, created=now(), index_sha256=sha256_bytes(index), engines=dict(sorted(engines.items()))
    )
    text = msgspec.json.encode(statement).decode()
    file = SignatureFile(
        schema=SCHEMA,
        algorithm=ALGORITHM,
        key_sha256=fingerprint(key.public_key()),
        statement=text,
        signature=base64.b64encode(key.sign(signed_bytes(SCHEMA, text))).decode(),
    )
    write_atomic(path / SIGNATURE, encode_record(file))
    return Seal(file.key_sha256, statement)
