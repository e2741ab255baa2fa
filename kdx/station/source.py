"""What a station judges: files that arrive in a folder, or the frames of a camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kdx.remarks import Remark
from kdx.station.judged_files import Identity


class Source(Protocol):
    """Files that wait for their verdict, in order. A context manager: they come while it is open.

    Attributes:
        lost: Why the files cannot be listed, or None.
    """

    lost: str | None

    def __enter__(self) -> object:
        """Let files come."""
        ...

    def __exit__(self, *_: object) -> None:
        """Let no more files come."""
        ...

    def left_out(self, *, at_end: bool = False) -> Sequence[Remark]:
        """Return what is left out, a remark for each kind.

        Args:
            at_end: Whether to count what may still be renamed or removed.
        """
        ...

    @property
    def is_blind(self) -> bool:
        """Whether no file can come: the folder, the camera or room on the disk is gone."""
        ...

    @property
    def waiting(self) -> int:
        """How many files wait."""
        ...

    @property
    def is_idle(self) -> bool:
        """Whether no file waits, and none is known to come."""
        ...

    def wake(self) -> None:
        """End a wait of :meth:`next`, from another thread or a signal's handler."""
        ...

    def next(self, patience: float) -> tuple[str, Identity] | None:
        """Return the first file, or None if there is none within so many seconds."""
        ...

    def left(self) -> int:
        """Return how many files are not judged."""
        ...

    def arrived(self, name: str) -> float:
        """Return when a file arrived that waits, by a clock that does not jump."""
        ...

    def seen(self, name: str) -> float:
        """Return the same; infinitely long ago for a file that may have been there before."""
        ...

    def is_behind(self, age: float) -> bool:
        """Whether a file waits that arrived so many seconds ago, or earlier."""
        ...

    def being_written(self, age: float) -> list[str]:
        """Return the files that arrived so many seconds ago, or earlier, and are not complete."""
        ...

    def done(self, name: str) -> None:
        """Remove a file that was judged from those that wait."""
        ...

    def put_back(self, name: str) -> None:
        """Let a file that changed while it was read wait again."""
        ...
