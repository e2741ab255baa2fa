"""Several views, one part: the part's verdict is that of its worst view."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import msgspec

from kdx.decision.verdict import Decision
from kdx.station.ledger import Ledger, PartKey, PartView
from kdx.station.record import UNREADABLE, NotJudged, VerdictRecord, new_verdict_id, time_now

# A defective view decides; otherwise, nothing that was not judged lets a part pass.
_WORST_LAST = (Decision.GOOD, Decision.REVIEW, Decision.UNDECIDED, Decision.DEFECTIVE)


class ViewVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one view of a part.

    Attributes:
        view: The view.
        verdict_id: As in the view's own record.
        verdict: As in the view's own record.
    """

    view: str
    verdict_id: str
    verdict: str


class PartRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of a verdict on a part of several views.

    Attributes:
        verdict_id: The identifier of this verdict.
        time: As for :class:`kdx.station.record.VerdictRecord`.
        part_id: The part.
        verdict: The worst of its views: defective, else undecided if a view was not judged or is
            missing, else to be reviewed, else good.
        views: The verdicts on its views, in the order in which they were judged.
        missing: The views that did not arrive in time.
        reason: ``view_missing`` if that is why the part is undecided, or None.
        product: The product by which the bundle was chosen, or None.
    """

    verdict_id: str
    time: str
    part_id: str
    verdict: str
    views: tuple[ViewVerdict, ...]
    missing: tuple[str, ...] = ()
    reason: str | None = None
    product: str | None = None


class Parts:
    """The parts whose views arrive.

    Times are those at which files arrived, by the station's own clock, which counts stops too: how
    long a file waits for its verdict is of no account.

    Args:
        ledger: The ledger, which holds the views of parts that are not complete.
        views: The views that make a part.
        timeout: How many seconds after the first view of a part another one may arrive.
        clock: Seconds of the station's own clock.
    """

    def __init__(self, ledger: Ledger, views: Sequence[str], timeout: float, clock: Callable[[], float]) -> None:
        self._ledger, self._views, self._timeout, self._clock = ledger, tuple(views), timeout, clock
        self._since = ledger.open_parts()
        self._seen: dict[PartKey, float] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether a view of a part is missing."""
        return bool(self._since)

    def due(self) -> Iterator[tuple[PartKey, float]]:
        """Yield the parts whose time is over, and for how many seconds it has been."""
        now = self._clock()
        for part, since in list(self._since.items()):
            if (overdue := now - since - self._timeout) >= 0:
                yield part, overdue

    def seen(self, part: PartKey) -> float:
        """Return when the first view of a part was seen; infinitely long ago if unknown."""
        return self._seen.get(part, -math.inf)

    def add(self, record: VerdictRecord, arrived: float, seen: float) -> list[tuple[PartRecord, float]]:
        """Add the verdict on a view, in a transaction; return the parts that end by it.

        A view that a part has already, or that arrived too late for it, is that of another part of
        the same identifier; so is one of another product.

        Args:
            record: The record of the view.
            arrived: When its file arrived, by the station's own clock.
            seen: When it was seen to arrive, by any clock.

        Returns:
            The records of the parts, and when the first view of each was seen.
        """
        assert record.view is not None
        part = key_of(record)
        ended: list[tuple[PartRecord, float]] = []
        before = self._ledger.views(part)
        first = min(seen, self.seen(part)) if before else seen
        if before:
            is_late = abs(arrived - min(one.seconds for one in before)) > self._timeout
            if is_late or record.view in {one.view for one in before}:
                ended.append((self.close(part), self.seen(part)))
                first = seen
        view = PartView(record.view, record.verdict_id, record.verdict, arrived)
        self._ledger.add_view(part, view)
        if {one.view for one in self._ledger.views(part)} >= set(self._views):
            ended.append((self.close(part), first))
        return ended

    def close(self, part: PartKey) -> PartRecord:
        """Return the verdict on a part, complete or not, and cross it off, in a transaction."""
        rows = self._ledger.views(part)
        self._ledger.close_part(part)
        views = tuple(ViewVerdict(view=one.view, verdict_id=one.verdict_id, verdict=one.verdict) for one in rows)
        missing = tuple(name for name in self._views if name not in {one.view for one in views})
        found = {Decision.UNDECIDED if one.verdict == UNREADABLE else Decision(one.verdict) for one in views}
        if missing:
            found.add(Decision.UNDECIDED)
        worst = max(found, key=_WORST_LAST.index)
        return PartRecord(
            verdict_id=new_verdict_id(),
            time=time_now(),
            part_id=part.part,
            verdict=worst.value,
            views=views,
            missing=missing,
            reason=NotJudged.VIEW_MISSING.value if missing and worst is Decision.UNDECIDED else None,
            product=part.product,
        )

    def note(self, part: PartKey, seen: float = -math.inf) -> None:
        """Take note, after a transaction, of a part that was begun, or complete.

        Args:
            part: The part.
            seen: When the view was seen that was added.
        """
        self._since.pop(part, None)
        before = self._seen.pop(part, -math.inf)
        if views := self._ledger.views(part):
            self._since[part] = min(one.seconds for one in views)
            self._seen[part] = seen if len(views) == 1 else min(before, seen)


def key_of(record: VerdictRecord) -> PartKey:
    """Return which part a view belongs to."""
    assert record.part_id is not None
    return PartKey(record.part_id, record.product)
