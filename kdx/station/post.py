"""What takes verdicts from the ledger's outbox to a receiver."""

from __future__ import annotations

from typing import Protocol


class Post(Protocol):
    """Takes messages from the outbox to one receiver."""

    @property
    def receiver(self) -> str:
        """The receiver's name."""
        ...

    def expect(self, message: int, since: float) -> None:
        """Take notice of a message before it is committed, and of when its part was seen."""
        ...

    def notice(self) -> None:
        """Take notice that there are new messages."""
        ...
