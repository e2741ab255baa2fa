"""Reading the files of an open bundle again: the content that was checked, or an error."""

from __future__ import annotations

import contextlib
import os
import weakref
from dataclasses import dataclass
from pathlib import Path

from kdx.bundle.seal import Seal
from kdx.errors import BackendError, BundleError
from kdx.storage.files import sha256_bytes, sha256_file
from kdx.storage.hashed_file import HashedFile


def read_checked(path: Path, sha256: str) -> bytes:
    """Return the content that a file had when its bundle was opened.

    Raises:
        BundleError: The file was replaced, altered or removed since.
    """
    changed = "was replaced or altered after the bundle was opened"
    return HashedFile(path.parent, path.name, sha256, BundleError, "load the bundle again", changed).read()


@dataclass(frozen=True)
class Graph:
    """An ONNX graph whose content was checked.

    Backends read graphs through this class, never by the path alone.

    Attributes:
        path: The file, for messages and because engines are beside it. Its content may change at
            any time.
        sha256: The hash of the content that was checked.
        seal: The signature that was required of its bundle, or None.
    """

    path: Path
    sha256: str
    seal: Seal | None = None

    @classmethod
    def of(cls, path: Path) -> Graph:
        """Return the graph in a file that belongs to no bundle, with its present content."""
        return cls(path, sha256_file(path))

    def read(self) -> bytes:
        """Return the content that was checked; raise ``BundleError`` if it has changed."""
        return read_checked(self.path, self.sha256)

    def hold(self) -> HeldGraph:
        """Open the file for a backend that reads the graph again later."""
        return HeldGraph(self)


class HeldGraph:
    """The open file of a graph, which can be read again after the bundle was replaced.

    Windows cannot replace a folder that holds an open file, so there the path is opened again. In
    both cases the content is compared with the hash each time.

    Args:
        graph: The graph.

    Attributes:
        path: The path of the graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.path = graph.path
        self._file: _OpenFile | None = None
        if os.name != "nt":
            with contextlib.suppress(OSError):  # read() reports the reason
                self._file = _OpenFile(graph.path)

    def read(self) -> bytes:
        """Return the content that was checked.

        Raises:
            BackendError: The file has changed since, or is missing.
        """
        try:
            file = self._file  # stays open until this call ends, even if close() is called meanwhile
            if file is None:
                return self._graph.read()
            content = file.read()
        except (OSError, BundleError) as error:
            raise BackendError(
                f"the graph '{self._graph.path}' cannot be read: {error}", fix="load the bundle again"
            ) from error
        if sha256_bytes(content) != self._graph.sha256:
            raise BackendError(
                f"the graph '{self._graph.path}' was altered after the bundle was opened",
                expected=f"sha256 {self._graph.sha256}",
                received=f"sha256 {sha256_bytes(content)}",
                fix="load the bundle again; replace bundles as a whole (kdx export --force), not single files",
            )
        return content

    def close(self) -> None:
        """Close the file as soon as no other thread reads it. Closing twice has no effect."""
        self._file = None


class _OpenFile:
    """A file descriptor that is closed when the object is no longer referenced."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self) -> bytes:
        # pread does not use the position of the file, which threads and forked processes share.
        parts, position, size = [], 0, os.fstat(self._descriptor).st_size
        while part := os.pread(self._descriptor, size - position, position):
            parts.append(part)
            position += len(part)
        return b"".join(parts)
