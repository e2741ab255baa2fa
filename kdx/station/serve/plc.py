"""Verdicts of a server to a PLC: kept on the disk before they are answered, until the PLC has them.

The heartbeat comes from the server's own loop and through the threads of every judge and of the
camera, so that it stands still when one of them does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from kdx.errors import BackendError, OutputError
from kdx.station.ledger import Ledger
from kdx.station.plc.link import PlcLink
from kdx.station.plc.plc import Plc
from kdx.station.record import VerdictRecord
from kdx.station.status import Status
from kdx.storage.json_output import encode_json

# How often the judges are asked for progress: more often than the heartbeat counts.
_PULSE_SECONDS = 0.25


class AtWork(Protocol):
    """Judges images, or takes frames, in a thread of its own."""

    @property
    def is_working(self) -> bool:
        """Whether its latest call worked, or the camera is there."""
        ...

    @property
    def progress(self) -> int:
        """What grows whenever its thread has done something."""
        ...

    def ping(self) -> None:
        """Give its thread something to do, unless it has that already."""
        ...

    def try_again(self) -> None:
        """Find out whether it works again."""
        ...


class Progress:
    """Looks whether all judges and the camera make progress.

    Args:
        all_at_work: The judges and the camera.
    """

    def __init__(self, all_at_work: Iterable[AtWork]) -> None:
        self._all = list(all_at_work)
        self._seen = [each.progress for each in self._all]

    def look(self) -> Status | None:
        """Return the status; None as long as one of them made no progress since the last status."""
        for each in self._all:
            each.ping()
        failing = [each for each in self._all if not each.is_working]
        for each in failing:
            each.try_again()
        if failing:
            return Status.FAULT
        now = [each.progress for each in self._all]
        if any(after == before for after, before in zip(now, self._seen, strict=True)):
            return None
        self._seen = now
        return Status.RUNNING


class PlcPost:
    """Keeps verdicts for a PLC, and writes them to it.

    Args:
        path: The file in which they are kept.
        plc: The PLC.
        say: Is given what users should know. Another thread calls it.

    Raises:
        OutputError: The file cannot be used.
        PlcRefusesError: The PLC answers, and refuses what kdx asks.
    """

    def __init__(self, path: Path, plc: Plc, say: Callable[[str], None]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kdx serve plc")
        try:
            self._ledger = self._thread.submit(Ledger, path, create=True).result()
            self._link = PlcLink(path, plc, say)
            self._link.check()
        except BaseException:
            self._thread.shutdown()
            raise
        self._link.start()

    def keep(self, record: VerdictRecord, since: float) -> None:
        """Keep a verdict.

        Args:
            record: Its record.
            since: When its image came, by a clock that does not jump.

        Raises:
            BackendError: It cannot be kept, so nobody may act on it.
        """
        line = encode_json(record, on_one_line=True) + b"\n"
        self._do(lambda: self._link.expect(self._ledger.post(PlcLink.receiver, line), since))
        self._link.notice()

    def check(self) -> None:
        """Try whether verdicts can be kept.

        Raises:
            BackendError: They cannot.
        """
        self._do(lambda: self._ledger.set_fact("check", 1))

    async def pulse(self, all_at_work: Iterable[AtWork]) -> None:
        """Tell the link of the progress of judges and camera, until the task is cancelled."""
        progress = Progress(all_at_work)
        while True:
            status = progress.look()
            if status is not None:
                self._link.pulse(status)
            await asyncio.sleep(_PULSE_SECONDS)

    def __enter__(self) -> PlcPost:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._link.pulse(Status.FAULT)
        self.close()

    def close(self) -> None:
        """Tell the PLC that kdx stops. What it did not take waits for the next call."""
        self._link.end()
        self._thread.submit(self._ledger.close)
        self._thread.shutdown()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            self._thread.submit(self._in_transaction, work).result()
        except (OSError, OutputError) as error:
            raise BackendError(f"the verdict could not be kept for the PLC: {error}") from error

    def _in_transaction(self, work: Callable[[], None]) -> None:
        with self._ledger.transaction():
            work()
