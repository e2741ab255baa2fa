"""How long work tells how far it is, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Say that ``steps`` more of the total are done, and show ``note`` beside the bar."""
        ...


class Progress(Protocol):
    """Something that shows tasks."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Begin a task of ``total`` steps."""
        ...


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class SilentProgress:
    """Shows nothing: the default of every function, and of ``--json``."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Begin a task that nobody watches."""
        return nullcontext(_SilentTask())


SILENT = SilentProgress()


def track(progress: Progress, items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield the items of one task, a step each."""
    with progress.task(description, total) as task:
        for item in items:
            yield item
            task.advance()
