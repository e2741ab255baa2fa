"""What a station keeps: by verdict, age and size, so that no disk fills.

Only what was judged is ever deleted, and only in the output folder. Ages are counted by the
station's own clock, so that a clock which jumps deletes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdx.decision.verdict import Decision
from kdx.errors import OptionError
from kdx.station.judged_files import HERE, LINKED, Identity, JudgedFile
from kdx.station.ledger import Ledger
from kdx.storage.files import is_disk_full, sha256_file

RECORDS, TOTAL = "records", "total"
# What may be deleted, in the order in which a total size gives it up. What was not judged stays.
_JUDGED = (Decision.GOOD.value, Decision.REVIEW.value, Decision.DEFECTIVE.value)
_DAY = 86_400.0
_SECONDS = {"h": 3600.0, "d": _DAY, "w": 7 * _DAY, "y": 365 * _DAY}
_BYTES = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
# The clock may have been set while the station stood still, so a stop counts for a day at most.
_LONGEST_STOP = _DAY
_AT_ONCE = 100
# After how many seconds files are tried again that could not be deleted.
_AGAIN_SECONDS = 600.0
# How often it is looked which files somebody took away, where more seems to be kept than may be.
_LOOK_SECONDS = 3600.0
_LOOK_AT_ONCE = 500


@dataclass(frozen=True)
class Keep:
    """What is kept for how long.

    Attributes:
        seconds: How long files are kept, by verdict; one that is not named is kept.
        records: How long the text files of records are kept, in seconds; None for always.
        total: How many bytes of files and heat maps are kept in all; None for any number.
    """

    seconds: dict[str, float]
    records: float | None = None
    total: float | None = None


def parse_keep(text: str) -> Keep:
    """Return what ``good=7d,defective=1y,records=2y,total=200GB`` says.

    Raises:
        OptionError: It says something else.
    """
    ages: dict[str, float] = {}
    total = None
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        amount = _AMOUNT.fullmatch(value.strip())
        units = _BYTES if name == TOTAL else _SECONDS
        is_known = name in (*_JUDGED, RECORDS, TOTAL) and name not in ages
        if amount is None or amount[2] not in units or not is_known:
            raise OptionError(
                f"`keep` does not say what is kept: '{part.strip()}'",
                expected=f"{', '.join(_JUDGED)} or {RECORDS} with an age (12h, 7d, 4w, 1y), or {TOTAL} with a size "
                "(500MB, 200GB, 2TB)",
                received=text,
                fix="undecided and unreadable files are always kept: nothing is known about their parts"
                if name in {"undecided", "unreadable"}
                else "for example good=7d,defective=1y,total=200GB",
            )
        if name == TOTAL:
            total = float(amount[1]) * units[amount[2]]
        else:
            ages[name] = float(amount[1]) * units[amount[2]]
    return Keep(ages, ages.pop(RECORDS, None), total)


class StationClock:
    """Seconds for which a station has existed, whatever the machine's clock is set to.

    While the station runs, they are those of a clock that does not jump. A stop counts as the
    machine's clock says, but never backwards, and for a day at most.

    Args:
        ledger: Where the seconds are stored.
        running: Seconds of a clock that does not jump.
        machine: Seconds of the machine's clock.
    """

    def __init__(
        self, ledger: Ledger, running: Callable[[], float] = time.monotonic, machine: Callable[[], float] = time.time
    ) -> None:
        self._ledger, self._running, self._machine = ledger, running, machine
        before = ledger.fact("machine_seconds")
        stopped = 0.0 if before is None else min(max(machine() - before, 0.0), _LONGEST_STOP)
        self._start = (ledger.fact("station_seconds") or 0.0) + stopped - running()

    def now(self) -> float:
        """Return the seconds."""
        return self.at(self._running())

    def at(self, running: float) -> float:
        """Return what :meth:`now` was when the clock that does not jump showed some seconds."""
        return self._start + running

    def save(self) -> None:
        """Store the seconds, in a transaction."""
        self._ledger.set_fact("station_seconds", self.now())
        self._ledger.set_fact("machine_seconds", self._machine())


class Retention:
    """Deletes what is not kept any longer.

    Args:
        out: The output folder.
        ledger: Its ledger.
        keep: What is kept.
        say: Is given what users should know.

    Attributes:
        stuck: Why a file could not be deleted, the first of those that wait to be tried again; None
            if there is none.
    """

    def __init__(self, out: Path, ledger: Ledger, keep: Keep, say: Callable[[str], None]) -> None:
        self._out, self._ledger, self._keep, self._say = out, ledger, keep, say
        self._said: set[str] = set()
        self.stuck: OSError | None = None
        self._again = 0.0  # when files are tried again that could not be deleted
        self._after: dict[str, int] = {}  # the number of the last of these, by verdict
        self._next_look = 0.0
        self._looked_at = 0  # the number of the last file that was looked at

    def apply(self, now: float) -> int:
        """Delete what is due, but not more than takes a moment.

        Args:
            now: The time by the station's own clock.

        Returns:
            How many files were deleted, tried or looked at; 0 if nothing is left to do.

        Raises:
            OSError: The disk is full.
        """
        if self.stuck is not None and now >= self._again:
            self.stuck, self._after = None, {}
        deleted = 0
        for verdict, seconds in self._keep.seconds.items():
            files = self._oldest(verdict, now - seconds)
            self._delete(files, now)
            deleted += len(files)
        if self._keep.total is not None:
            deleted += self._shrink(self._keep.total, now)
        if self._keep.records is not None and RECORDS not in self._after:
            for name in self._ledger.texts_before(now - self._keep.records):
                with self._unless_stuck(RECORDS, 0, now):
                    if self._unlink(name):
                        with self._ledger.transaction():
                            self._ledger.forget_text(name)
        return deleted

    def _oldest(self, verdict: str, before: float = float("inf")) -> list[JudgedFile]:
        """Return the first files with a verdict that are not known to be stuck."""
        return self._ledger.oldest(verdict, before, self._after.get(verdict, 0), _AT_ONCE)

    @contextlib.contextmanager
    def _unless_stuck(self, kind: str, number: int, now: float) -> Iterator[None]:
        """Let a file that cannot be deleted hold up none after it; it is tried again later.

        A full disk is no trouble of one file: the ledger cannot be written, and the station waits.
        """
        try:
            yield
        except OSError as error:
            if is_disk_full(error):
                raise
            if self.stuck is None:
                self.stuck, self._again = error, now + _AGAIN_SECONDS
            self._after[kind] = number

    def _shrink(self, total: float, now: float) -> int:
        """Delete the oldest good files, then those to be reviewed, then defective ones."""
        excess = self._ledger.kept_bytes() - total
        if excess > 0 and now >= self._next_look:
            if looked_at := self._forget_taken():
                return looked_at
            self._next_look, self._looked_at = now + _LOOK_SECONDS, 0
            excess = self._ledger.kept_bytes() - total
        deleted = 0
        for verdict in _JUDGED:
            if excess <= 0 or deleted >= _AT_ONCE:
                return deleted
            files = iter(self._oldest(verdict))
            while chosen := _enough(files, excess):  # again, where some cannot be deleted
                excess -= self._delete(chosen, now)
                deleted += len(chosen)
        if excess > 0 and not deleted and self.stuck is None:
            self._say_once("what was not judged takes more than the total that is kept; nobody else deletes it")
        return deleted

    def _forget_taken(self) -> int:
        """Look at the next files, and forget those that somebody took away; return how many."""
        files = self._ledger.kept(self._looked_at, _LOOK_AT_ONCE)
        taken = [
            file
            for file in files
            if not any(name and os.path.lexists(self._out / name) for name in (file.place, file.heat_map))
        ]
        if taken:
            with self._ledger.transaction():
                for file in taken:
                    self._forget(file, is_deleted=True)
        self._looked_at = files[-1].id if files else 0
        return len(files)

    def _forget(self, file: JudgedFile, *, is_deleted: bool) -> None:
        """Forget a file, in a transaction; one that is still in the watched folder stays known."""
        if file.state in {HERE, LINKED} or not is_deleted:
            self._ledger.discard(file)
        else:
            self._ledger.forget([file])

    def _delete(self, files: Sequence[JudgedFile], now: float) -> int:
        """Delete what is kept of files, and then, at once, what the ledger knows of them.

        After a kill in between, the next call finds nothing to delete, and goes on.

        Returns:
            How many bytes are no longer counted.
        """
        done: list[tuple[JudgedFile, bool]] = []
        for file in files:
            with self._unless_stuck(file.verdict, file.id, now):
                deleted = [self._unlink(file.heat_map), self._unlink(file.place, file)]
                done.append((file, all(deleted)))
        if done:
            with self._ledger.transaction():
                for file, is_deleted in done:
                    self._forget(file, is_deleted=is_deleted)
        return sum(file.bytes for file, _ in done)

    def _unlink(self, name: str | None, file: JudgedFile | None = None) -> bool:
        """Delete a file of the output folder; return False for one that is not ours, which stays.

        Args:
            name: Its path relative to the output folder; None for no file.
            file: What was put there; None for whatever is there.
        """
        if name is None:
            return True
        path = self._out / name
        out = os.path.realpath(self._out)
        if os.path.commonpath([out, os.path.realpath(path.parent)]) != out:
            self._say_once(f"'{path.parent}' leads out of the output folder: nothing is deleted there")
            return False
        if file is not None and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                # Network drives may answer with other times later: the content then decides.
                if Identity.of(path.stat()) != file.identity and sha256_file(path) != file.image_sha256:
                    self._say_once(f"'{path}' was changed since it was judged, and is not deleted")
                    return False
        path.unlink(missing_ok=True)
        return True

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def _enough(files: Iterator[JudgedFile], excess: float) -> list[JudgedFile]:
    """Return the next files that together take at least so many bytes, or all that are left."""
    found: list[JudgedFile] = []
    while excess > 0 and (file := next(files, None)) is not None:
        found.append(file)
        excess -= file.bytes
    return found
