"""``kdx watch``: a folder whose files are judged as they arrive."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from types import FrameType
from typing import Literal

import msgspec

from kdx.errors import DataError, OptionError, OutputError
from kdx.loading.load import require_outside_bundles
from kdx.station.bundles import Bundles
from kdx.station.camera.grabbing import Grabbing
from kdx.station.database import FILE
from kdx.station.delivery import Command, Courier, Receiver
from kdx.station.in_hand import InHand
from kdx.station.judging import Judge
from kdx.station.ledger import Ledger
from kdx.station.names import NamePattern
from kdx.station.options import WatchOptions
from kdx.station.plc.connecting import link_to
from kdx.station.plc.link import PlcLink
from kdx.station.record import VerdictRecord
from kdx.station.station import Record, Station
from kdx.station.status import Status
from kdx.storage.files import require_writable
from kdx.storage.locks import locked_output
from kdx.text import number, number_of, one_line


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What one call of ``kdx watch`` did.

    Attributes:
        files: How many files or frames got each verdict.
        parts: How many parts of several views got each verdict.
        most_waiting: How many files waited at most.
        undelivered: How many verdicts still wait for each receiver.
        reasons: How many files or frames are undecided for each reason.
        kind: Whether they were files or frames.
        losses: How often the connection to the PLC was lost.
        withheld: How many verdicts were too old for the PLC.
        without_part: How many files or frames gave no part, where an expression was to find it.
    """

    files: dict[str, int]
    parts: dict[str, int]
    most_waiting: int
    undelivered: dict[str, int]
    reasons: dict[str, int]
    kind: Literal["file", "frame"] = "file"
    losses: int = 0
    withheld: int = 0
    without_part: int = 0

    def describe(self) -> str:
        """Return the summary as a line for people."""
        judged = ", ".join(f"{count:,} {verdict}" for verdict, count in self.files.items())
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.items())
        parts = ", ".join(f"{count:,} {verdict}" for verdict, count in self.parts.items())
        undelivered = "".join(
            f"; {number_of(count, '[verdict waits|verdicts wait]')} for {name}, and a later call delivers"
            for name, count in self.undelivered.items()
            if count
        )
        losses = f"; the connection to the PLC was lost {number_of(self.losses, '[time|times]')}" if self.losses else ""
        withheld = "; the PLC was not given {}, which were too old"
        old = withheld.format(number_of(self.withheld, "[verdict|verdicts]")) if self.withheld else ""
        names = f"; {number_of(self.without_part, '[name|names]')} without a part" if self.without_part else ""
        text = f"{judged or f'no {self.kind} was judged'}{reasons and f' ({reasons})'}"
        return f"{self.kind}s: {text}{parts and f'; parts: {parts}'}{names}{undelivered}{old}{losses}"


class _Tally:
    """Counts records by what they say."""

    def __init__(self, pattern: NamePattern, say: Callable[[str], None]) -> None:
        self._pattern, self._say = pattern, say
        self.files: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.without_part = 0

    def add(self, record: Record) -> None:
        """Count a record."""
        if not isinstance(record, VerdictRecord):
            self.parts[record.verdict] += 1
            return
        self.files[record.verdict] += 1
        if record.reason is not None:
            self.reasons[record.reason] += 1
        if record.part_id is None and self._pattern.has_part:
            self.without_part += 1
            if self.without_part == 1:
                self._say(f"`part_id` finds no part in '{_name_of(record)}': such names are counted at the end")


def judge_arrivals(
    options: WatchOptions,
    *,
    each: Callable[[Record], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Summary:
    """Judge the files of a folder as they arrive, until SIGINT or SIGTERM.

    The first signal ends the call after the file in hand; the second raises ``KeyboardInterrupt``.

    Args:
        options: What is asked for.
        each: Is given every record. What standard output gets is not repeated after a kill; the
            records in the output folder are complete.
        say: Is given what users should know. Other threads call it too.

    Raises:
        DataError: The folder does not exist.
        OptionError: The options contradict each other.
        OutputError: The output folder is of something else, of another watched folder, or in use.
        KdxError: As for :func:`kdx.load`.
    """
    _require_apart(options)
    tally = _Tally(options.pattern, say)
    with contextlib.ExitStack() as held:
        ledger = held.enter_context(_opened(options))
        bundles = held.enter_context(Bundles(options.bundles, options.load))
        grabbing = None
        if options.camera is not None:
            grabbing = held.enter_context(Grabbing(options, options.camera, ledger, bundles, say))
        in_hand = held.enter_context(contextlib.closing(InHand(options.out)))
        judge = Judge(
            options.folder,
            bundles,
            options.pattern,
            in_hand,
            heat_maps=options.heat_maps,
            are_frames=options.camera is not None,
            say=say,
        )
        link = None if options.plc is None else link_to(options.plc, ledger.path, say)
        pulse = _no_pulse if link is None else link.pulse
        couriers: list[Courier | PlcLink] = [Courier(ledger.path, receiver, say) for receiver in _receivers(options)]
        couriers += [] if link is None else [link]
        _say_forgotten(ledger, {courier.receiver for courier in couriers}, say)
        source = None if grabbing is None else grabbing.spool
        station = Station(options, ledger, bundles, judge, couriers, say, source, pulse)
        held.enter_context(_signals(station.stop))
        for courier in couriers:
            courier.start()
        try:
            for record in station.records():
                tally.add(record)
                each(record)
        except BaseException:  # a second signal too: the file in hand has no verdict
            pulse(Status.FAULT)
            raise
        finally:
            for courier in couriers:
                courier.end(when_done=options.once, is_stopping=lambda: station.is_stopping)
        waiting = {courier.receiver: ledger.waiting(courier.receiver) for courier in couriers}
        losses, withheld = (0, 0) if link is None else (link.losses, link.withheld)
        return Summary(
            files=tally.files,
            parts=tally.parts,
            most_waiting=station.backlog.most,
            undelivered=waiting,
            reasons=tally.reasons,
            losses=losses,
            withheld=withheld,
            without_part=tally.without_part,
            kind="file" if options.camera is None else "frame",
        )


def describe(record: Record) -> str:
    """Return a record as a line for people."""
    if isinstance(record, VerdictRecord):
        score = "" if record.score is None else f"  score {number(record.score)}, threshold {number(record.threshold)}"
        why = record.error["message"] if record.error else ", ".join(record.frame_faults) or record.reason or ""
        return one_line(f"{record.verdict:10} {_name_of(record)}{score}{why and f'  {why}'}")
    missing = f"  without {', '.join(record.missing)}" if record.missing else ""
    views = number_of(len(record.views), "[view|views]")
    return one_line(f"{record.verdict:10} part {record.part_id}: {views}{missing}")


def _name_of(record: VerdictRecord) -> str:
    return record.image or f"{record.camera} frame {'?' if record.frame is None else record.frame}"


def _say_forgotten(ledger: Ledger, named: Set[str], say: Callable[[str], None]) -> None:
    """Say which verdicts of earlier calls wait for receivers that this call does not name."""
    for receiver, count in ledger.receivers():
        if receiver not in named:
            waiting = number_of(count, "[verdict waits|verdicts wait]")
            option = "command" if receiver == Command.name else receiver
            say(f"{waiting} for {receiver}, and this call does not deliver: add `{option}`")


def _receivers(options: WatchOptions) -> Iterator[Receiver]:
    if options.command is not None:
        yield Command(options.command)
    if options.broker is not None:
        from kdx.station.mqtt import MqttReceiver

        yield MqttReceiver(options.broker)


def _no_pulse(status: Status) -> None:
    """Tell nobody."""


def _require_apart(options: WatchOptions) -> None:
    """Refuse folders that would judge or move each other's files, and options without effect."""
    folder, out = (Path(os.path.realpath(path)) for path in (options.folder, options.out))
    require_outside_bundles(options.out, "out")
    if options.camera is None and not folder.is_dir():
        raise DataError(f"there is no folder '{options.folder}'", fix="name the folder in which images arrive")
    if options.camera is None and (folder.is_relative_to(out) or out.is_relative_to(folder)):
        raise OutputError(
            f"'{options.out}' and '{options.folder}' lie in each other: files that were sorted would be judged again",
            expected="an `out` beside the watched folder",
            fix="choose another `out`",
        )
    if options.files == "move" and options.camera is None:
        require_writable(options.folder)
    keeps_files = options.files in {"move", "link"} or options.heat_maps
    if options.keep is not None and not keeps_files and (options.keep.seconds or options.keep.total is not None):
        raise OptionError(
            "`keep` would delete nothing: files stay in the watched folder, which is not touched"
            if options.camera is None
            else "`keep` would delete nothing: frames are removed after their verdict",
            fix=f"add `move`{', `link`' if options.camera is None else ''} or `heat_maps`, or keep only records=1y",
        )


@contextlib.contextmanager
def _opened(options: WatchOptions) -> Iterator[Ledger]:
    """Open the output folder: of this command, of this watched folder, and of one process."""
    out = options.out
    if out.exists() and not (out / FILE).exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"'{out}' exists and is not of kdx watch", fix="choose another `out`")
    out.mkdir(parents=True, exist_ok=True)
    with locked_output(out, "kdx watch", out), contextlib.closing(Ledger(out / FILE, create=True)) as ledger:
        _require_same_folder(ledger, options)
        yield ledger


def _require_same_folder(ledger: Ledger, options: WatchOptions) -> None:
    folder = os.fsencode(options.folder.absolute() if options.camera is None else options.camera.identity)
    before = ledger.fact("folder")
    if before is None:
        with ledger.transaction():
            ledger.set_fact("folder", folder)
    elif before != folder and not (options.camera and options.camera.is_known_as(os.fsdecode(before))):
        raise OutputError(
            f"'{options.out}' holds the records of another {'folder' if options.camera is None else 'camera or video'}",
            expected=os.fsdecode(before),
            received=os.fsdecode(folder),
            fix="choose another `out`",
        )


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let a SIGINT or SIGTERM end the work after the file in hand, and another one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.default_int_handler)
        stop()

    before = {each: signal.signal(each, first) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
