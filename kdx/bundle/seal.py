"""What a signature says, once it was read: its key, and the hashes that were signed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from kdx.bundle.manifest import INDEX, SIGNATURE
from kdx.errors import BundleError
from kdx.storage.json_records import UNREADABLE, describe_invalid

SIGN_AGAIN = "sign it again where the key is kept (kdx sign)"


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What is signed.

    Attributes:
        kdx_version: The version of kdx that signed.
        created: The time of signing, UTC, ISO 8601.
        index_sha256: The hash of ``bundle.json``.
        engines: The hash of each engine's record and plan, by relative POSIX path.
    """

    kdx_version: str
    created: str
    index_sha256: str
    engines: dict[str, str]


@dataclass(frozen=True)
class Seal:
    """A signature that a bundle carries.

    Attributes:
        key_sha256: The fingerprint of the key.
        statement: What was signed.
    """

    key_sha256: str
    statement: Statement

    def require_engine_file(self, name: str, received: str, *, fix: str) -> None:
        """Check that the signature covers a file of an engine.

        Args:
            name: The file's POSIX path relative to the bundle.
            received: The hash of its content.
            fix: What the user can do.

        Raises:
            BundleError: The signature does not list the file, or lists another hash.
        """
        signed = self.statement.engines.get(name)
        if signed != received:
            raise BundleError(
                f"'{name}' is not what was signed",
                expected=f"sha256 {signed}" if signed else f"listed in {SIGNATURE}",
                received=f"sha256 {received}",
                fix=fix,
            )


def decode_seal(path: Path, key_sha256: str, text: str, index_sha256: str) -> Seal:
    """Decode the signed text of a bundle's signature, and check that it is of this bundle.

    Args:
        path: The bundle's folder, for messages.
        key_sha256: The fingerprint of the key.
        text: The signed text.
        index_sha256: The hash of the content of ``bundle.json``.

    Raises:
        BundleError: The text is not valid, or ``bundle.json`` was altered after it was signed.
    """
    try:
        seal = Seal(key_sha256, msgspec.json.decode(text.encode(), type=Statement))
    except UNREADABLE as error:
        raise BundleError(f"'{path / SIGNATURE}' is not valid: {describe_invalid(error)}", fix=SIGN_AGAIN) from error
    if index_sha256 != seal.statement.index_sha256:
        raise BundleError(
            f"{INDEX} of '{path}' was altered after it was signed",
            expected=f"sha256 {seal.statement.index_sha256}",
            received=f"sha256 {index_sha256}",
            fix=f"if you changed it on purpose, {SIGN_AGAIN}; if not, do not use this bundle: copy it again from where "
            "it was signed",
        )
    return seal
