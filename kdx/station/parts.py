"""Several views, one part: the part's verdict is that of its worst view."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from kdx.decision.verdict import Decision
from kdx.station.ledger import Ledger
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

    Args:
        ledger: The ledger, which holds the views of parts that are not complete.
        views: The views that make a part.
        timeout: After how many seconds a part is closed whose views are not complete. After a stop,
            they are counted again from the beginning.
        clock: Seconds of a clock that does not jump.
    """

    def __init__(
        self, ledger: Ledger, views: Sequence[str], timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger, self._views, self._timeout, self._clock = ledger, tuple(views), timeout, clock
        self._since = dict.fromkeys(ledger.open_parts(), clock())

    @property
    def is_waiting(self) -> bool:
        """Whether a view of a part is missing."""
        return bool(self._since)

    def due(self) -> Iterator[str]:
        """Yield the parts whose time is over, in the order in which they began."""
        for part, since in list(self._since.items()):
            if self._clock() - since < self._timeout:
                return
            yield part

    def add(self, record: VerdictRecord) -> PartRecord | None:
        """Add the verdict on a view, in a transaction; return the part's if it is complete."""
        assert record.part_id is not None
        assert record.view is not None
        self._ledger.add_view(record.part_id, record.view, record.verdict_id, record.verdict, record.product)
        present = {view for view, *_ in self._ledger.views(record.part_id)}
        return self.close(record.part_id) if present >= set(self._views) else None

    def close(self, part: str) -> PartRecord:
        """Return the verdict on a part, complete or not, and cross it off, in a transaction."""
        rows = self._ledger.views(part)
        self._ledger.close_part(part)
        views = tuple(ViewVerdict(view=view, verdict_id=number, verdict=verdict) for view, number, verdict, _ in rows)
        missing = tuple(name for name in self._views if name not in {one.view for one in views})
        found = {Decision.UNDECIDED if one.verdict == UNREADABLE else Decision(one.verdict) for one in views}
        if missing:
            found.add(Decision.UNDECIDED)
        worst = max(found, key=_WORST_LAST.index)
        return PartRecord(
            verdict_id=new_verdict_id(),
            time=time_now(),
            part_id=part,
            verdict=worst.value,
            views=views,
            missing=missing,
            reason=NotJudged.VIEW_MISSING.value if missing and worst is Decision.UNDECIDED else None,
            product=rows[0][3] if rows else None,
        )

    def note(self, part: str) -> None:
        """Take note, after a transaction, of a part that was begun, or complete."""
        if self._ledger.views(part):
            self._since.setdefault(part, self._clock())
        else:
            self._since.pop(part, None)
