"""Reading a file whose hash is known: the content that was hashed, or an error."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdx.errors import KdxError
from kdx.storage.files import sha256_bytes, sha256_file

_LONGEST_NAME = 255


@dataclass(frozen=True)
class HashedFile:
    """A file whose hash is known.

    Attributes:
        folder: The folder.
        name: The file's path relative to it.
        sha256: The expected hash, hexadecimal.
        error: The kind of error that is raised.
        fix: What the user can do.
        changed: What the message says of a file with another hash.
        received: What the message says was found instead; empty for the other hash.
    """

    folder: Path
    name: str
    sha256: str
    error: type[KdxError]
    fix: str
    changed: str = "was altered"
    received: str = ""

    def read(self) -> bytes:
        """Return the content.

        Raises:
            KdxError: Of the given kind: the file is missing, cannot be read, or has another hash.
        """
        with self._readable() as file:
            content = file.read_bytes()
        self._require(sha256_bytes(content))
        return content

    def check(self) -> None:
        """Check the content in blocks, without holding all of it in memory.

        Raises:
            KdxError: As for :meth:`read`.
        """
        with self._readable() as file:
            found = sha256_file(file)
        self._require(found)

    @contextmanager
    def _readable(self) -> Iterator[Path]:
        require_file(self.folder, self.name, error=self.error, fix=self.fix)
        try:
            yield self.folder / self.name
        except OSError as cause:  # a file that may not be read
            raise _unreadable(self.folder, self.name, cause, self.error, self.fix) from cause

    def _require(self, found: str) -> None:
        if found != self.sha256:
            raise self.error(
                f"'{self.name}' in '{self.folder}' {self.changed}",
                expected=f"sha256 {self.sha256}",
                received=self.received or f"sha256 {found}",
                fix=self.fix,
            )


def require_file(folder: Path, name: str, *, error: type[KdxError], fix: str) -> None:
    """Check that a name in a folder is that of a file, or of a link to one.

    Args:
        folder: The folder.
        name: The path relative to it.
        error: The kind of error to raise.
        fix: What the user can do.

    Raises:
        KdxError: Of the given kind: nothing has that name; or a folder, a pipe, a link that leads
            nowhere or to itself.
    """
    file = folder / name
    try:
        is_file = stat.S_ISREG(file.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as cause:
        if not file.is_symlink():
            raise error(f"'{name}' is missing from '{folder}'", fix=fix) from cause
        raise error(
            f"'{name}' in '{folder}' is a link to '{file.readlink()}', which does not exist", fix=fix
        ) from cause
    except (OSError, ValueError) as cause:  # a name that the system does not accept
        raise _unreadable(folder, name, cause, error, fix) from cause
    if not is_file:
        raise error(f"'{name}' in '{folder}' is not a file", fix=fix)


def _unreadable(folder: Path, name: str, cause: Exception, error: type[KdxError], fix: str) -> KdxError:
    reason = cause.strerror if isinstance(cause, OSError) else cause
    is_loop = isinstance(cause, OSError) and cause.errno == errno.ELOOP
    why = "is a link that leads back to itself" if is_loop else f"cannot be read: {reason}"
    return error(f"'{name[:_LONGEST_NAME]}' in '{folder}' {why}", fix=fix)
