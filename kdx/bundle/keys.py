"""Key files for signatures: Ed25519 in PEM, as OpenSSL reads and writes them.

The package cryptography is imported inside the functions, because only signing and verifying need
it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kdx.errors import OptionError, OutputError
from kdx.storage.files import sha256_bytes, write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PublicKey: TypeAlias = "str | Path | bytes"
PublicKeys: TypeAlias = "PublicKey | Sequence[PublicKey]"


def public_keys(keys: PublicKeys) -> dict[str, Ed25519PublicKey]:
    """Read public keys.

    Args:
        keys: A PEM file's path, its content as bytes, or several of them (while one key replaces
            another).

    Returns:
        The keys by fingerprint; at least one.

    Raises:
        OptionError: There is no key, a key cannot be read or is of another kind, or the package
            cryptography is missing.
    """
    given = [keys] if isinstance(keys, (str, Path, bytes)) or not isinstance(keys, Iterable) else list(keys)
    strange = [key for key in given if not isinstance(key, (str, Path, bytes))]
    if strange:
        raise OptionError(
            "`require_signature` is not a key",
            expected="the path of a PEM file, its content as bytes, or a list of them",
            received=type(strange[0]).__name__,
            fix="name the public key of the signer (NAME.pub)",
        )
    if not given:
        raise OptionError("a signature is required, but no key is given", fix="name the public key of the signer")
    read = [_public_key(key) for key in given]
    return {fingerprint(key): key for key in read}


def absolute_keys(keys: PublicKeys | None) -> PublicKeys | None:
    """Return public keys whose paths name the same files from any folder."""
    if keys is None or isinstance(keys, bytes):
        return keys
    if isinstance(keys, (str, Path)):
        return Path(keys).absolute()
    return tuple(key if isinstance(key, bytes) else Path(key).absolute() for key in keys)


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return a public key's fingerprint: the SHA-256 of its DER form (SubjectPublicKeyInfo)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return sha256_bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def private_key(path: Path, passphrase: Callable[[], str]) -> Ed25519PrivateKey:
    """Read a private key.

    Args:
        path: The PEM file.
        passphrase: Returns the passphrase; called if the key is encrypted.

    Raises:
        OptionError: The key cannot be read or is of another kind, the passphrase is wrong, or the
            package cryptography is missing.
    """
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = _read(path)
    try:
        try:
            key = load_pem_private_key(data, None)
        except TypeError:  # the key is encrypted
            key = load_pem_private_key(data, passphrase().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise OptionError(
            f"'{path}' is not a readable private key, or the passphrase is wrong",
            expected="Ed25519 in PEM (kdx sign --new-key NAME makes one)",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise OptionError(f"'{path}' is a key of another kind", expected="Ed25519", received=type(key).__name__)
    return key


def make_keys(name: Path, passphrase: str | None = None) -> tuple[Path, Path, str]:
    """Create a private key ``NAME.key``, readable by its owner, and ``NAME.pub``.

    Args:
        name: The path of both files without the suffix.
        passphrase: The passphrase that encrypts the private key, or None.

    Returns:
        The paths of the private and the public key, and the fingerprint.

    Raises:
        OutputError: One of the files exists: a key is never replaced.
        OptionError: The package cryptography is missing, or the passphrase is empty.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    if passphrase == "":
        raise OptionError("the passphrase is empty", fix="enter a passphrase, or use none")
    stem = str(name).removesuffix(".key")
    secret, public = Path(f"{stem}.key"), Path(f"{stem}.pub")
    for path in (secret, public):
        if path.exists():
            raise _is_there(path)
    key = Ed25519PrivateKey.generate()
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
    _write_secret(secret, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    try:
        write_atomic(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except BaseException:
        secret.unlink()
        raise
    return secret, public, fingerprint(key.public_key())


def _public_key(key: PublicKey) -> Ed25519PublicKey:
    _require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    name = "the key" if isinstance(key, bytes) else f"'{key}'"
    data = key if isinstance(key, bytes) else _read(Path(key))
    try:
        found = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        secret = b"PRIVATE KEY" in data
        raise OptionError(
            f"{name} is a private key; the line needs the public key" if secret else f"{name} is not a public key",
            expected="the NAME.pub that kdx sign --new-key NAME has made: Ed25519 in PEM",
        ) from error
    if not isinstance(found, Ed25519PublicKey):
        raise OptionError(f"{name} is a key of another kind", expected="Ed25519", received=type(found).__name__)
    return found


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise OptionError(
            f"there is no key '{path}'", fix="name the file; kdx sign --new-key NAME makes NAME.key and NAME.pub"
        )
    return path.read_bytes()


def _is_there(path: Path) -> OutputError:
    return OutputError(f"'{path}' exists already", fix="choose another name: a key is never replaced")


def _write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, created with these permissions."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise _is_there(path) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _require_cryptography() -> None:
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "signatures need the package 'cryptography', which is not installed", fix='pip install "kdx[sign]"'
        ) from error
