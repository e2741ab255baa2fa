"""The files of the watched folder that have their verdict, by which they are not judged again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdx.station.judged_files import GONE, MOVED, Identity, JudgedFile
from kdx.station.ledger import Ledger
from kdx.storage.files import sha256_file

# How many files that left the watched folder by themselves are remembered: a drive that was not
# mounted for a while may bring them back.
_REMEMBERED = 100_000


class KnownFiles:
    """The judged files that may lie in the watched folder.

    Args:
        folder: The watched folder.
        ledger: The ledger of the output folder.
    """

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self._folder, self._ledger = folder, ledger
        self._known = ledger.known()

    def is_judged(self, name: str, identity: Identity) -> bool:
        """Whether a file has its verdict."""
        return self._known.get(name) == identity

    def add(self, name: str, identity: Identity) -> None:
        """Take notice of a file that got its verdict."""
        self._known[name] = identity

    def settle(self, files: Sequence[JudgedFile]) -> None:
        """Take notice of what became of judged files."""
        for file in files:
            if self._known.get(file.path) != file.identity:
                continue  # another file has come to this path
            if file.state in {MOVED, GONE}:
                del self._known[file.path]
            elif file.placed is not None:
                self._known[file.path] = file.placed  # linking a file changes its status

    def is_unchanged(self, name: str, identity: Identity) -> bool:
        """Whether a file is the image that has its verdict, although its status has changed.

        A backup program links files, and others change permissions: the content decides. The ledger
        then knows the file by its status.
        """
        before = self._known.get(name)
        if before is None or not identity.is_like(before):
            return False
        try:
            if identity.size and sha256_file(self._folder / name) != self._ledger.image_sha256(name):
                return False
        except OSError:  # the judge says why
            return False
        with self._ledger.transaction():
            self._ledger.see_again(name, before, identity)
        self._known[name] = identity
        return True

    def forget_vanished(self, names: Sequence[str]) -> None:
        """Forget files that are no longer in the folder, except the latest of them."""
        if len(self._known) <= _REMEMBERED:
            return
        present = set(names)
        vanished = [name for name in self._known if name not in present]
        with self._ledger.transaction():
            for name in vanished[: max(len(vanished) - _REMEMBERED, 0)]:
                self._ledger.forget_path(name)
                del self._known[name]
