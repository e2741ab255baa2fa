"""What operators say of parts, and the state of the queue that the page shows."""

from __future__ import annotations

import msgspec

from kdx.errors import KdxError
from kdx.station.serve.live import Glance
from kdx.station.serve.reviewed_folder import Said


class ReviewError(KdxError):
    """A statement is about a part that is not there."""


class ConflictError(KdxError):
    """Another statement on the part was made meanwhile."""


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator says of a part.

    Attributes:
        said: ``good`` or ``defective``; None takes back what was said.
        who: The operator's name.
        before: What the operator saw as said before, or None for nothing. If something else was
            said meanwhile, the statement is refused. Not checked where it is missing.
    """

    said: Said | None
    who: str
    before: Said | msgspec.UnsetType | None = msgspec.UNSET


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the queue.

    Attributes:
        waiting: How many parts wait for a statement.
        said: How many parts there is a statement on, by what was said.
        lost: How many parts are not in the queue although they were not good: their images did not
            fit into the folder, or could not be written.
        bundles: Of each bundle, how many parts are ``waiting``, ``good`` and ``defective``.
        parts: The parts that are first in the queue, some of each bundle.
    """

    waiting: int
    said: dict[str, int]
    lost: int
    bundles: dict[str, dict[str, int]]
    parts: list[Glance]
