"""What the live page shows: the latest verdicts with their images, and the figures of the shift."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.decision.verdict import Decision, Verdict
from kdx.station.record import UNREADABLE, VerdictRecord, time_now
from kdx.station.serve.answers import Asked
from kdx.station.serve.figures import DriftFigures

# How many verdicts have pictures, and how many bytes their images and maps may take together.
_MOST_SHOWN, _MOST_BYTES = 60, 128 << 20
_ON_PAGE = 12
_TIMED = 500
# Stands for the bundle of images that none judges.
NO_BUNDLE = "no bundle"
# Computing the drift takes a millisecond: it is done once in so many verdicts.
_VERDICTS_A_DRIFT = 25


@dataclass(frozen=True)
class Seen:
    """A verdict with what it was reached on.

    Attributes:
        bundle: The name of the bundle.
        record: The record of the verdict.
        data: The body of the request.
        asked: What the request asked for, with the layout of a frame.
        verdict: The verdict; None if the backend failed, or if the image could not be used.
        milliseconds: The time from the request to the answer, with its body or its frame and its
            wait in the queue; None where no verdict was reached.
    """

    bundle: str
    record: VerdictRecord
    data: bytes
    asked: Asked
    verdict: Verdict | None
    milliseconds: float | None

    @property
    def size(self) -> int:
        """The bytes of the image and of the map."""
        return len(self.data) + (0 if self.verdict is None else self.verdict.anomaly_map.nbytes)

    @property
    def anomaly_map(self) -> NDArray[np.float32] | None:
        """The map; None if the backend failed, or if it says nothing about the part."""
        if self.verdict is None or (self.verdict.reason is not None and self.verdict.reason.is_of_answer):
            return None
        return self.verdict.anomaly_map


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict on the page: the fields of its record that a person reads."""

    verdict_id: str
    time: str
    bundle: str
    part_id: str | None
    image: str | None
    verdict: str
    score: float | None
    threshold: float | None
    review_threshold: float | None
    reason: str | None
    frame_faults: tuple[str, ...]
    has_map: bool
    milliseconds: float | None = None

    @classmethod
    def of(cls, bundle: str, record: VerdictRecord, *, has_map: bool, milliseconds: float | None = None) -> Glance:
        """Return what the page shows of a record."""
        named = ("verdict_id", "time", "part_id", "image", "verdict", "score", "threshold", "review_threshold")
        shown: dict[str, Any] = {name: getattr(record, name) for name in (*named, "reason", "frame_faults")}
        return cls(**shown, bundle=bundle, has_map=has_map, milliseconds=milliseconds)


class ShiftOfBundle(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a bundle since the shift began.

    Attributes:
        name: The name of the bundle.
        counts: The number of verdicts by decision, and of images that could not be used
            (``unreadable``), which have no verdict.
        p50_ms: The median time from the request to the answer, of the latest verdicts, or None.
        p99_ms: The 99th percentile, or None.
        drift: How the latest scores differ from those of the calibration, see
            :class:`kdx.monitoring.drift.Drift`; None for too few scores.
        drift_alarm: Whether ``kdx drift`` raises an alarm.
    """

    name: str
    counts: dict[str, int]
    p50_ms: float | None
    p99_ms: float | None
    drift: float | None
    drift_alarm: bool = False


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """The state that the page shows.

    Attributes:
        since: The UTC time at which the shift began.
        bundles: The figures of each bundle.
        latest: The latest verdicts, the newest first.
    """

    since: str
    bundles: list[ShiftOfBundle]
    latest: list[Glance]


class KeptShift(msgspec.Struct, frozen=True, kw_only=True):
    """What a server that is started again continues.

    Attributes:
        since: The UTC time at which the shift began.
        counts: Of each bundle, the counts as in :class:`ShiftOfBundle`.
    """

    since: str
    counts: dict[str, dict[str, int]]


@dataclass
class _OfBundle:
    counts: Counter[str] = field(default_factory=Counter)
    milliseconds: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMED))
    scored: int = 0
    drift_at: int = -_VERDICTS_A_DRIFT
    drift: DriftFigures | None = None


class Live:
    """Takes every verdict of the judges, and answers the page. Its methods are thread-safe.

    Args:
        drift_of: What computes the drift of each bundle's scores; None for too few.
        before: The shift that an earlier server began, or None.
    """

    def __init__(
        self, drift_of: Mapping[str, Callable[[], DriftFigures | None]], before: KeptShift | None = None
    ) -> None:
        self.version = 0
        self.since = time_now() if before is None else before.since
        self._drift_of = drift_of
        counted = {} if before is None else before.counts
        # A server that is started again with these bundles counts on.
        self._not_served = {name: counts for name, counts in counted.items() if name not in {*drift_of, NO_BUNDLE}}
        names = [*drift_of, *({NO_BUNDLE} & set(counted))]
        self._bundles = {name: _OfBundle(Counter(counted.get(name))) for name in names}
        self._shown: deque[Seen] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, seen: Seen) -> None:
        """Take a verdict."""
        with self._lock:
            self.version += 1
            ours = self._bundles.setdefault(seen.bundle, _OfBundle())
            ours.counts[seen.record.verdict] += 1
            if seen.milliseconds is not None:
                ours.milliseconds.append(seen.milliseconds)
            ours.scored += 1
            self._shown.append(seen)
            self._bytes += seen.size
            while len(self._shown) > _MOST_SHOWN or (self._bytes > _MOST_BYTES and len(self._shown) > 1):
                self._bytes -= self._shown.popleft().size

    def refuse(self, seen: Seen) -> None:
        """Count an image that could not be used and has no verdict."""
        with self._lock:
            self.version += 1
            self._bundles[seen.bundle].counts[UNREADABLE] += 1

    def kept(self) -> KeptShift:
        """Return what a server that is started again continues."""
        with self._lock:
            counts = {name: dict(ours.counts) for name, ours in self._bundles.items()}
            return KeptShift(since=self.since, counts=self._not_served | counts)

    def find(self, verdict_id: str) -> Seen | None:
        """Return a verdict that is still shown, or None."""
        with self._lock:
            return next((seen for seen in self._shown if seen.record.verdict_id == verdict_id), None)

    def begin_shift(self) -> None:
        """Count from now on."""
        with self._lock:
            self.version += 1
            self.since = time_now()
            for ours in self._bundles.values():
                ours.counts.clear()
            self._not_served.clear()

    def shift(self) -> Shift:
        """Return what the page shows now."""
        with self._lock:
            bundles = [self._figures(name, ours) for name, ours in self._bundles.items()]
            latest = list(self._shown)[: -_ON_PAGE - 1 : -1]
            since = self.since
        return Shift(
            since=since,
            bundles=bundles,
            latest=[
                Glance.of(
                    seen.bundle, seen.record, has_map=seen.anomaly_map is not None, milliseconds=seen.milliseconds
                )
                for seen in latest
            ],
        )

    def _figures(self, name: str, ours: _OfBundle) -> ShiftOfBundle:
        if ours.scored >= ours.drift_at + _VERDICTS_A_DRIFT:
            ours.drift = self._drift_of[name]() if name in self._drift_of else None
            ours.drift_at = ours.scored
        times = np.percentile(ours.milliseconds, (50, 99)) if ours.milliseconds else None
        return ShiftOfBundle(
            name=name,
            counts={each: ours.counts[each] for each in (*(decision.value for decision in Decision), UNREADABLE)},
            p50_ms=None if times is None else round(float(times[0]), 2),
            p99_ms=None if times is None else round(float(times[1]), 2),
            drift=None if ours.drift is None else ours.drift.effect,
            drift_alarm=ours.drift is not None and ours.drift.alarm,
        )
