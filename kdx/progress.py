"""Reporting the progress of long work, independent of how it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

T = TypeVar("T")


class Task(Protocol):
    """A running task."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report that ``steps`` more steps are done, and show ``note`` beside the bar."""
        ...


class Progress(Protocol):
    """A display of running tasks."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Start a task of ``total`` steps."""
        ...


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class SilentProgress:
    """A display that shows nothing: the default of every function, and used for JSON output."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Start a task that is not shown."""
        return nullcontext(_SilentTask())


SILENT = SilentProgress()


def track(progress: Progress, items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield items, each of which is one step of a task."""
    with progress.task(description, total) as task:
        for item in items:
            yield item
            task.advance()
