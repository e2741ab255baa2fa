"""The system's notices of files in a folder, by watchdog."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from kdx.errors import DataError

# What a notice says: a file was created or written to, or renamed to its name; or a folder came.
CREATED, RENAMED, FOLDER = "created", "renamed", "folder"
# What is noticed, of which path, and when.
Notice: TypeAlias = tuple[str, str, float]


def observer_of(folder: Path, notices: SimpleQueue[Notice | None], clock: Callable[[], float]) -> Any:
    """Start watchdog's observer of a folder, which puts its notices into a queue."""

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            for notice in _notices_of(event):
                notices.put((*notice, clock()))

    logging.getLogger("watchdog").addHandler(logging.NullHandler())  # it lists the folder again by itself
    observer = _observer_type()
    try:
        observer.schedule(Handler(), os.fspath(folder), recursive=True)
        observer.start()
    except OSError as error:
        raise DataError(
            f"the system gives no notices of '{folder}': {error.strerror or error}",
            fix="where it says that no space is left, raise fs.inotify.max_user_watches",
        ) from error
    return observer


def is_watching(observer: Any) -> bool:
    """Whether notices still come: those of a folder end when it is removed."""
    return all(emitter.is_alive() for emitter in observer.emitters)


def _observer_type() -> Any:
    """Return an observer that tells files that are renamed into the folder from created ones.

    Only Linux does so; elsewhere, a file that was renamed comes to rest like any other.
    """
    with suppress(TypeError):
        return Observer(generate_full_events=True)  # type: ignore[call-arg]
    return Observer()


def _notices_of(event: Any) -> Iterator[tuple[str, str]]:
    kind, destination = event.event_type, os.fsdecode(event.dest_path)
    if event.is_directory:
        if kind in {"created", "moved"}:
            yield FOLDER, ""
    elif kind == "moved":
        if destination:
            yield RENAMED, destination
    elif kind in {"created", "modified", "closed"}:
        yield CREATED, os.fsdecode(event.src_path)
