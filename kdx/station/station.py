"""A station: every file that arrives is judged once, recorded, sorted and reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from kdx.errors import DataError, KdxError
from kdx.station.arrivals import Arrivals
from kdx.station.backlog import Backlog
from kdx.station.bundles import BundleRecord, Bundles
from kdx.station.camera.frames import NO_IMAGE
from kdx.station.heat_maps import HeatMaps
from kdx.station.judged_files import HERE, LINKING, MOVING, REMOVING, Identity, JudgedFile
from kdx.station.judging import JudgedImage
from kdx.station.known import KnownFiles
from kdx.station.ledger import Ledger
from kdx.station.lines import Lines
from kdx.station.options import WatchOptions
from kdx.station.parts import PartRecord, Parts, key_of
from kdx.station.places import Places, free_place
from kdx.station.post import Post
from kdx.station.record import VerdictRecord, time_now
from kdx.station.retention import Retention, StationClock
from kdx.station.source import Source
from kdx.station.status import Status
from kdx.station.troubles import Troubles
from kdx.storage.json_output import encode_json

_FIRST_STATES = {"stay": HERE, "move": MOVING, "link": LINKING, "remove": REMOVING}
_PATIENCE_SECONDS = 0.5
_RETENTION_SECONDS = 30.0
# While files wait, lines are written and files are moved for several at once.
_MOST_UNFINISHED = 16

Record: TypeAlias = VerdictRecord | PartRecord


class Station:
    """Judges what arrives, in the thread of the caller.

    Args:
        options: What is asked for.
        ledger: The ledger of the output folder.
        bundles: What judges, to take up replaced ones.
        judge: Judges a file; returns None for one that changed or is gone.
        post: Takes messages to their receivers.
        say: Is given what users should know.
        source: What is judged; None for the files that arrive in the watched folder.
        pulse: Is given the status whenever there was progress, and when there can be none.

    Attributes:
        arrivals: The files that arrive.
        backlog: How many of them wait.
    """

    def __init__(
        self,
        options: WatchOptions,
        ledger: Ledger,
        bundles: Bundles,
        judge: Callable[[str, Identity], JudgedImage | None],
        post: Sequence[Post],
        say: Callable[[str], None],
        source: Source | None = None,
        pulse: Callable[[Status], None] = lambda _: None,
    ) -> None:
        self._options, self._ledger, self._bundles, self._judge = options, ledger, bundles, judge
        self._post, self._say, self._pulse = post, say, pulse
        self._clock = StationClock(ledger)
        self._places = Places(options.folder, options.out, ledger, say)
        self._heat_maps = HeatMaps(options.out, ledger, say)
        self._lines = Lines(options.out, ledger, options.csv)
        self._parts = Parts(ledger, options.pattern.views, options.part_timeout, self._clock.now)
        self._retention = None if options.keep is None else Retention(options.out, ledger, options.keep, say)
        self._next_retention = time.monotonic()
        self._known = KnownFiles(options.folder, ledger)
        self._are_bundles_logged = False
        self._unfinished = 0
        self._is_stopping = False
        self._has_failed = False
        self._has_looked = False
        self.backlog = Backlog(options.backlog, say)
        self.arrivals: Source = source or Arrivals(
            options.folder,
            options.settle,
            options.scan_every,
            self._known.is_judged,
            self._known.forget_vanished,
            say=say,
        )
        self._troubles = Troubles(options, say, self.arrivals.left, lambda: self._is_stopping)

    def stop(self) -> None:
        """End after the file in hand. A signal's handler may call it."""
        self._is_stopping = True
        self.arrivals.wake()

    @property
    def is_stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._is_stopping

    def records(self) -> Iterator[Record]:
        """Judge what arrives, and yield its records, until :meth:`stop`, or until all is judged.

        Raises:
            DataError: The system gives no notices of the folder; or it is gone, and only what is
                there was to be judged.
            OutputError: The ledger cannot be written; or the disk is full, and only what is there
                was to be judged.
            OSError: Another file cannot be written, for another reason than a full disk.
        """
        self._heat_maps.finish()
        with self.arrivals:
            while not self._is_stopping:
                try:
                    made = self._step()
                except OSError as error:
                    self._has_failed = True
                    self._pulse(Status.FAULT)
                    self._troubles.wait_out(error)
                    continue
                if self._options.once and self.arrivals.lost is not None and not made:
                    gone = DataError(f"{self.arrivals.lost}; what is in it was not judged")
                    self._troubles.wait(lambda gone=gone: gone)  # type: ignore[misc]
                    continue
                self._troubles.reset()
                if self._has_failed and (made or not self.arrivals.waiting):
                    self._has_failed = False
                    self._pulse(self._status())
                yield from made
                if self._options.once and not made and self._is_done():
                    self._say_left_out(at_end=True)
                    break
        try:
            self._finish()
        except OSError as error:  # the next call finishes
            self._troubles.wait_out(error)

    def _step(self) -> list[Record]:
        """Finish what is begun, and judge the next file if there is one; return its records."""
        if not self._are_bundles_logged:
            self._log_bundles()
        if not self.arrivals.waiting or self._unfinished >= _MOST_UNFINISHED:
            self._finish()
        self._take_up_bundles()
        self._keep_less()
        arrived = self.arrivals.next(self._patience())
        self._has_looked = True
        self.backlog.update(self.arrivals.waiting)
        self._troubles.change("folder", self.arrivals.lost, "the folder can be listed again")
        self._say_left_out()
        if not self._has_failed:  # after a failure, a verdict must be recorded before this counts as progress
            self._pulse(self._status())
        if closed := self._close_parts():
            return closed
        if arrived is None or self._is_stopping:
            return []
        name, identity = arrived
        if self._known.is_unchanged(name, identity):
            self.arrivals.done(name)
            return []
        judged = self._judge(name, identity)
        if judged is None:
            self.arrivals.put_back(name)
            return []
        return self._commit(name, identity, judged)

    def _commit(self, name: str, identity: Identity, judged: JudgedImage) -> list[Record]:
        """Record a verdict and all that follows from it, in one transaction."""
        record, options = judged.record, self._options
        place = None
        self._places.remove_changed_links(name, identity)
        files = "remove" if name.endswith(NO_IMAGE) else options.files
        if files in {"move", "link"}:
            place = free_place(options.out, self._ledger, record.verdict, name, record.verdict_id)
        picture = None
        if judged.heat_map is not None:
            at = place or f"{record.verdict}/{name}"
            picture = self._heat_maps.write(judged.heat_map, at, record.verdict_id)
        kept = 0
        if self._retention is not None:
            kept = (0 if place is None else identity.size) + len(judged.heat_map or b"")
        state = _FIRST_STATES[files]
        file = JudgedFile(
            name, identity, record.verdict_id, record.verdict, state, place, picture, kept, 0, record.image_sha256
        )
        parts: list[tuple[PartRecord, float]] = []
        is_view = record.part_id is not None and record.view in options.pattern.views
        seen = self.arrivals.seen(name)
        with self._ledger.transaction():
            self._clock.save()
            self._ledger.add_file(file, self._clock.now())
            for each in (record, *judged.more):
                if each.frame is not None:
                    self._ledger.set_fact("frame", each.frame)  # after which a video is continued
                self._add_line(each)
            if is_view:
                parts = self._parts.add(record, self._clock.at(self.arrivals.arrived(name)), seen)
                for part in parts:
                    self._add_part(*part)
            else:
                for each in (record, *judged.more):
                    self._send(each, seen)
        # From here on, it has its record, whatever happens.
        self._unfinished += 1
        self._known.add(name, identity)
        self.arrivals.done(name)
        self._heat_maps.show(picture, record.verdict_id)
        if is_view:
            self._parts.note(key_of(record), seen)
        self._notify()
        return [record, *judged.more, *(part for part, _ in parts)]

    def _finish(self) -> None:
        """Write the lines and move the files that the ledger intends."""
        is_written = self._lines.write(self._clock.now())
        files = self._places.finish()
        self._unfinished = 0
        self._known.settle(files)
        if is_written or files:
            self._troubles.change("disk", None, "there is room on the disk again")

    def _close_parts(self) -> list[Record]:
        """Close the parts whose time is over, and return their records.

        What arrived in time may still wait for its verdict, or be written.
        """
        closed: list[Record] = []
        for part, overdue in self._parts.due():
            written = (self._options.pattern.read(name) for name in self.arrivals.being_written(overdue))
            if self.arrivals.is_behind(overdue) or any((name.part, name.product) == part for name in written):
                continue
            with self._ledger.transaction():
                record = self._parts.close(part)
                self._add_part(record, self._parts.seen(part))
            self._parts.note(part)
            closed.append(record)
        if closed:
            self._notify()
        return closed

    def _add_part(self, part: PartRecord, since: float) -> None:
        self._add_line(part)
        self._send(part, since)

    def _add_line(self, record: Record | BundleRecord) -> None:
        self._ledger.add_line(record.time[:10], _line(record))

    def _send(self, record: Record, since: float) -> None:
        for post in self._post:
            post.expect(self._ledger.post(post.receiver, _line(record)), since)

    def _notify(self) -> None:
        for post in self._post:
            post.notice()

    def _log_bundles(self) -> None:
        with self._ledger.transaction():
            for product, loaded in self._bundles:
                self._add_line(BundleRecord(event="bundle", time=time_now(), by=loaded.by, product=product))
        self._are_bundles_logged = True

    def _take_up_bundles(self) -> None:
        """Take up bundles that were replaced: between two files, whole, and logged."""
        for product, loaded in self._bundles:
            changed = loaded.take_up()
            if changed is None:
                continue
            if isinstance(changed, KdxError):
                error, replaces, event = changed.as_dict(), None, "bundle_refused"
                self._say(f"'{loaded.path}' was not taken up, and the old one judges on: {changed.message}")
            else:
                error, replaces, event = None, changed.bundle_sha256, "bundle"
                self._say(f"'{loaded.path}' was replaced: from now on, {loaded.by.bundle_sha256[:12]} judges")
            line = BundleRecord(
                event=event, time=time_now(), by=loaded.by, product=product, replaces=replaces, error=error
            )
            with self._ledger.transaction():
                self._add_line(line)

    def _keep_less(self) -> None:
        """Delete what is not kept any longer: some of it at once, so that no file waits for it."""
        if self._retention is not None and time.monotonic() >= self._next_retention:
            deleted = self._retention.apply(self._clock.now())
            stuck, trouble = self._retention.stuck, None
            if stuck is not None:
                trouble = f"what is not kept any longer cannot be deleted: {stuck}; it is tried again later"
            self._troubles.change("retention", trouble, "what is not kept any longer can be deleted again")
            self._next_retention = time.monotonic() + (0.0 if deleted else _RETENTION_SECONDS)
            with self._ledger.transaction():
                self._clock.save()

    def _status(self) -> Status:
        # A call that ends with the video has done all that was asked for.
        if self.arrivals.is_blind and not (self._options.once and self.arrivals.is_idle):
            return Status.FAULT
        is_old = any(loaded.is_refused for _, loaded in self._bundles)
        return Status.OLD_BUNDLE if is_old else Status.RUNNING

    def _patience(self) -> float:
        """Return for how many seconds to wait for a file."""
        # Where only what is there is judged, a first look tells whether that is anything; and
        # whoever waits for a folder to be back has waited already.
        is_look_enough = not self._has_looked or self.arrivals.lost is not None or self._is_done()
        return 0.0 if self._options.once and is_look_enough else _PATIENCE_SECONDS

    def _is_done(self) -> bool:
        return self.arrivals.is_idle and not self._parts.is_waiting

    def _say_left_out(self, *, at_end: bool = False) -> None:
        """Say once for each kind what is in the folder and is not taken."""
        for remark in self.arrivals.left_out(at_end=at_end):
            self._troubles.change(f"left out: {remark.kind}", str(remark))


def _line(record: Record | BundleRecord) -> bytes:
    return encode_json(record, on_one_line=True) + b"\n"
