"""Files that arrive in a folder, complete and in order.

A file is complete when it was renamed to its name, or when its size and its time of change have
been at rest for a while, by a clock that does not jump. The system's notices come at once, but may
be lost, and network drives give none; so the folder is listed every few seconds too.
"""

from __future__ import annotations

import heapq
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from typing import Any

from kdx.errors import DataError
from kdx.folders.image_search import LeftOut, is_hidden, is_image_name, own_kind, walk
from kdx.remarks import Remark
from kdx.station.judged_files import Identity
from kdx.station.notices import FOLDER, RENAMED, Notice, is_watching, observer_of

# So many times as long as a listing took, no other one begins.
_PAUSE_AFTER_LISTING = 5
# A listing that takes longer than this delays parts.
_LONG_LISTING = 1.0


@dataclass
class _Candidate:
    """A file that was seen: when it arrived, and since when it has not changed.

    ``seen`` is when it arrived, or infinitely long ago if it may have been there before.
    """

    identity: Identity
    order: int
    arrived: float
    seen: float
    since: float = 0.0


class Arrivals:
    """The files that arrive in a folder. A context manager: notices come while it is open.

    Args:
        folder: The folder, whose subfolders are watched too.
        settle: How many seconds size and time of change must be at rest.
        scan_every: After how many seconds the folder is listed again.
        is_known: Whether a file of this path and identity was judged already.
        on_scan: Is given the paths of all files, whenever the folder was listed.
        clock: Seconds of a clock that does not jump.
        say: Is given what users should know.

    Attributes:
        lost: Why the folder could not be listed the last time; None if it was.
    """

    def __init__(
        self,
        folder: Path,
        settle: float,
        scan_every: float,
        is_known: Callable[[str, Identity], bool],
        on_scan: Callable[[list[str]], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder, self._settle, self._scan_every = folder, settle, scan_every
        self._is_known, self._on_scan, self._clock, self._say = is_known, on_scan, clock, say
        self._notices: SimpleQueue[Notice | None] = SimpleQueue()
        self._candidates: dict[str, _Candidate] = {}
        self._unsettled: dict[str, None] = {}  # by the time since which they are at rest
        self._complete: list[tuple[int, str]] = []  # a heap, by the order of arrival
        self._order = 0
        self._next_scan = self._may_scan = clock()
        self._is_listed = False  # since the last notice of a folder
        self._left_out: list[Remark] = []  # by the last listing
        self._staying: list[Remark] = []  # those of which one was left out by the listing before too
        self._place: tuple[int, int] | None = None  # what the folder was when it was listed last
        self._is_slow = False
        self._observer: Any = None
        self.lost: str | None = None

    def __enter__(self) -> Arrivals:
        self._observer = observer_of(self._folder, self._notices, self._clock)
        return self

    def __exit__(self, *_: object) -> None:
        self._observer.stop()
        self._observer.join()

    def left_out(self, *, at_end: bool = False) -> Sequence[Remark]:
        """Return what the last listing left out, a remark for each kind.

        Args:
            at_end: Whether to count what may still be renamed or removed.
        """
        return self._left_out if at_end else self._staying

    @property
    def is_blind(self) -> bool:
        """Whether the folder could not be listed the last time."""
        return self.lost is not None

    @property
    def waiting(self) -> int:
        """How many files wait: complete, and not yet judged."""
        return len(self._candidates) - len(self._unsettled)

    @property
    def is_idle(self) -> bool:
        """Whether the folder was listed and no file in it waits or is being written."""
        return self.lost is None and self._is_listed and not self._candidates

    def left(self) -> int:
        """List the folder, and return how many files in it are not judged."""
        self._list()
        return len(self._candidates)

    def wake(self) -> None:
        """End a wait of :meth:`next`, from another thread or a signal's handler."""
        self._notices.put(None)

    def next(self, patience: float) -> tuple[str, Identity] | None:
        """Return the complete file that arrived first, or None if there is none for a while.

        Args:
            patience: How many seconds to wait at most.
        """
        give_up = self._clock() + patience
        while True:
            if self._take_notices():
                return None
            if self._clock() >= self._next_scan:
                self._scan()
            self._take_settled()
            name = self._first()
            if name is not None and self._is_own(name):
                self.done(name)  # as in a listing, which says so
                continue
            if name is not None:
                return name, self._candidates[name].identity
            now = self._clock()
            if now >= give_up:
                return None
            with suppress(Empty):
                notice = self._notices.get(timeout=max(min(give_up, self._next_scan, self._next_settled()) - now, 0.0))
                if notice is None:
                    return None
                self._take(*notice)

    def arrived(self, name: str) -> float:
        """Return when a file arrived that waits, or is being written."""
        return self._candidates[name].arrived

    def seen(self, name: str) -> float:
        """Return the same; infinitely long ago for a file that may have been there before."""
        return self._candidates[name].seen

    def age(self, name: str) -> float:
        """Return how many seconds ago it arrived."""
        return self._clock() - self.arrived(name)

    def is_behind(self, age: float) -> bool:
        """Whether a complete file waits that arrived so many seconds ago, or earlier."""
        name = self._first()
        return name is not None and self.age(name) >= age

    def being_written(self, age: float) -> list[str]:
        """Return the files that arrived so many seconds ago, or earlier, and are not complete."""
        return [name for name in self._unsettled if self.age(name) >= age]

    def done(self, name: str) -> None:
        """Remove a file that was judged, or is gone, from those that wait."""
        self._candidates.pop(name, None)
        self._unsettled.pop(name, None)

    def put_back(self, name: str) -> None:
        """Let a file that changed while it was read come to rest again."""
        self.done(name)
        self._see(name, self._clock(), is_renamed=False)

    def _first(self) -> str | None:
        """Return the complete file that arrived first; drop what was removed since."""
        while self._complete:
            order, name = self._complete[0]
            candidate = self._candidates.get(name)
            if candidate is not None and candidate.order == order and name not in self._unsettled:
                return name
            heapq.heappop(self._complete)
        return None

    def _take_notices(self) -> bool:
        """Take the notices that have come; return whether one of them is :meth:`wake`."""
        with suppress(Empty):
            while (notice := self._notices.get_nowait()) is not None:
                self._take(*notice)
            return True
        return False

    def _take(self, kind: str, path: str, arrived: float) -> None:
        if kind == FOLDER:
            # What is in it may have been there before it was watched.
            self._next_scan = min(self._next_scan, self._may_scan)
            self._is_listed = False
            return
        name = os.path.relpath(path, self._folder).replace(os.sep, "/")
        if not any(is_hidden(part) for part in name.split("/")):
            self._see(name, arrived, is_renamed=kind == RENAMED)

    def _scan(self) -> None:
        """List the folder, and leave time for other things where that takes long."""
        began = self._clock()
        self._list()
        ended = self._clock()
        self._may_scan = ended + _PAUSE_AFTER_LISTING * (ended - began)
        self._next_scan = max(ended + self._scan_every, self._may_scan)
        if ended - began > _LONG_LISTING and not self._is_slow:
            self._is_slow = True
            self._say(
                f"to list '{self._folder}' takes {ended - began:.1f} s, in which nothing is judged: "
                "let fewer files stay in it, for example with `move`"
            )

    def _list(self) -> None:
        """See every file of the folder, those that are new in the order of their last change."""
        kinds = LeftOut()
        try:
            is_first = self._follow()
            names = list(walk(self._folder, kinds, is_strict=False))
        except DataError as error:  # for example a network drive that is not mounted
            self.lost = error.message
            return
        self.lost, self._is_listed = None, True
        found: list[tuple[int, str]] = []
        for name in names:
            identity = self._identity(name)
            if identity is not None and not self._is_known(name, identity):
                found.append((identity.mtime_ns, name))
            elif identity is None and os.path.lexists(self._folder / name):
                kinds.add("not_a_file", name)
        arrived = self._clock()
        for _, name in sorted(found):
            self._see(name, arrived, is_renamed=False, was_there=is_first)
        before = {name for remark in self._left_out for name in remark.first}
        self._left_out = kinds.remarks
        self._staying = [remark for remark in kinds.remarks if not before.isdisjoint(remark.first)]
        self._on_scan(names)

    def _follow(self) -> bool:
        """Watch what the folder's path leads to now; return whether that was not listed before.

        The system's notices are about a folder, and not about its path: of another folder that has
        come to the path, there would be none. It may have the number of the one that was removed.
        """
        try:
            status = self._folder.stat()
        except OSError:  # the listing says why
            return True
        before, self._place = self._place, (status.st_dev, status.st_ino)
        is_deaf = self._observer is not None and not is_watching(self._observer)
        is_other = is_deaf or before not in {None, self._place}
        if is_other and self.lost is None:
            self._say(f"'{self._folder}' was replaced by another folder, which is watched from now on")
        if is_other or self.lost is not None:
            self.__exit__()
            self.__enter__()
        return before is None or is_other or self.lost is not None

    def _is_own(self, name: str) -> bool:
        """Whether a file lies in a run folder or a bundle, which :func:`walk` leaves out."""
        return any(own_kind(self._folder / folder) for folder in PurePosixPath(name).parents[:-1])

    def _see(self, name: str, arrived: float, *, is_renamed: bool, was_there: bool = False) -> None:
        """Take notice of a file: it is new, or may have changed, or came by its name just now."""
        if not is_image_name(name):  # perhaps a name from which it is still to be renamed
            return
        identity = self._identity(name)
        if identity is None or self._is_known(name, identity):
            self.done(name)
            return
        candidate = self._candidates.get(name)
        if candidate is None:
            seen = float("-inf") if was_there else arrived
            candidate = self._candidates[name] = _Candidate(identity, self._order, arrived, seen)
            self._order += 1
        elif identity == candidate.identity and not (is_renamed and name in self._unsettled):
            return
        candidate.identity, candidate.since = identity, self._clock()
        self._unsettled.pop(name, None)
        if is_renamed:
            heapq.heappush(self._complete, (candidate.order, name))
        else:
            self._unsettled[name] = None

    def _take_settled(self) -> None:
        """Look once more at the files that have been at rest for long enough."""
        while self._next_settled() <= self._clock():
            name = next(iter(self._unsettled))
            candidate = self._candidates[name]
            if self._identity(name) == candidate.identity:
                del self._unsettled[name]
                heapq.heappush(self._complete, (candidate.order, name))
            else:
                self._see(name, candidate.arrived, is_renamed=False)

    def _next_settled(self) -> float:
        """Return when the next file has been at rest for long enough."""
        first = next(iter(self._unsettled), None)
        return float("inf") if first is None else self._candidates[first].since + self._settle

    def _identity(self, name: str) -> Identity | None:
        """Return the identity of a file, or None if there is no regular file of this name."""
        try:
            status = os.stat(self._folder / name)  # noqa: PTH116  # thousands of files a scan
        except OSError:
            return None
        return Identity.of(status) if stat.S_ISREG(status.st_mode) else None
