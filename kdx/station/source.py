"""What a station judges: files that arrive in a folder, or the frames of a camera."""

from __future__ import annotations

from typing import Protocol

from kdx.station.judged_files import Identity


class Source(Protocol):
    """Files that wait for their verdict, in order. A context manager: they come while it is open.

    Attributes:
        lost: Why the files cannot be listed, or None.
        left_out: A file that is left out, or None.
        began: Since when files are seen as they come, by a clock that does not jump: how long those
            have been there that were seen until then is not known.
    """

    lost: str | None
    left_out: str | None
    began: float

    def __enter__(self) -> object:
        """Let files come."""
        ...

    def __exit__(self, *_: object) -> None:
        """Let no more files come."""
        ...

    @property
    def others(self) -> tuple[int, str | None]:
        """How many files are left out, and the first of them."""
        ...

    @property
    def is_blind(self) -> bool:
        """Whether no file can come: the folder cannot be listed, or the camera is gone."""
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
