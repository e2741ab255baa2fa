"""Images that no bundle judges: they are undecided, recorded, counted, and kept for review."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from http import HTTPStatus

from kdx.errors import BackendError, DataError, KdxError
from kdx.station.record import NotJudged, not_judged
from kdx.station.serve.figures import Figures
from kdx.station.serve.judge import Job, Keeper, Observer, tell
from kdx.station.serve.live import NO_BUNDLE, Seen
from kdx.station.serve.places import Places
from kdx.station.serve.problems import RefusedError


class Nobody:
    """Takes the place of a judge for products that have no bundle.

    Args:
        observers: They receive every record.
        figures: The figures of the service.
        places: How many requests may be received at once.
        keeper: It keeps every record before it is answered, or None.
    """

    def __init__(
        self, observers: Sequence[Observer], figures: Figures, places: int, keeper: Keeper | None = None
    ) -> None:
        self._observers, self._figures, self._places, self._keeper = observers, figures, places, keeper

    @cached_property
    def places(self) -> Places:
        """The places of requests; without such a request, no figure names them."""
        return Places(NO_BUNDLE, self._places, self._figures.of(NO_BUNDLE))

    def refusal(self, job: Job, bundles: Iterable[str]) -> RefusedError:
        """Return the answer for an image, after its record was kept and told to the observers.

        Args:
            job: The image.
            bundles: The names of the bundles that are served.
        """
        status = HTTPStatus.NOT_FOUND
        error: KdxError = DataError(
            "no bundle belongs to the part's product, and the part is undecided",
            expected=" or ".join(bundles),
            received=job.asked.product or "no product in the part",
            fix="serve the product's bundle too; its folder is named PRODUCT.kdx",
        )
        record = not_judged(job.shown, error, None, NotJudged.NO_BUNDLE)
        self._figures.no_bundle.inc()
        if self._keeper is not None:
            try:
                self._keeper.keep(record, job.came)
            except BackendError as not_kept:
                status, error = HTTPStatus.INTERNAL_SERVER_ERROR, not_kept
        seen = Seen(NO_BUNDLE, record, job.data, job.asked, None, None)
        tell(self._observers, lambda observer: observer.add(seen))
        return RefusedError(status, error, record=record)
