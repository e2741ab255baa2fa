"""Reading a file whose hash is known: the content that was hashed, or an error."""

from __future__ import annotations

from pathlib import Path

from kdx.errors import KdxError
from kdx.storage.files import sha256_bytes

_LONGEST_NAME = 255


def read_hashed(
    folder: Path,
    name: str,
    sha256: str,
    *,
    error: type[KdxError],
    changed: str = "was altered",
    received: str = "",
    fix: str,
) -> bytes:
    """Return a file's content if it has the expected hash.

    Args:
        folder: The folder.
        name: The file's path relative to it.
        sha256: The expected hash, hexadecimal.
        error: The kind of error to raise.
        changed: What the message says of a file with another hash.
        received: What the message says was found instead; empty for the other hash.
        fix: What the user can do.

    Raises:
        KdxError: Of the given kind: the file is missing, cannot be read, or has another hash.
    """
    file = folder / name
    try:
        if not file.is_file():  # neither a folder nor a pipe
            raise error(f"'{name}' is missing from '{folder}'", fix=fix)
        content = file.read_bytes()
    except (OSError, ValueError) as cause:  # a name that the system does not accept, a file that may not be read
        reason = cause.strerror if isinstance(cause, OSError) else cause
        raise error(f"'{name[:_LONGEST_NAME]}' in '{folder}' cannot be read: {reason}", fix=fix) from cause
    found = sha256_bytes(content)
    if found != sha256:
        raise error(
            f"'{name}' in '{folder}' {changed}",
            expected=f"sha256 {sha256}",
            received=received or f"sha256 {found}",
            fix=fix,
        )
    return content
