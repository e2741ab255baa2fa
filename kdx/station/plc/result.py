"""What a PLC is given of a verdict: a number for the decision, the score, and the part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import numpy as np

from kdx.decision.verdict import Decision
from kdx.station.record import UNREADABLE

# 0 is the value of a cleared memory: it says nothing, and so does every number that is not listed.
DECISIONS = {
    Decision.GOOD.value: 1,
    Decision.REVIEW.value: 2,
    Decision.DEFECTIVE.value: 3,
    Decision.UNDECIDED.value: 4,
    UNREADABLE: 5,
}
# Sequence numbers and the heartbeat count from 1 to this and begin again: a signed integer of 16
# bits, which every PLC has, holds them.
LAST_NUMBER = 32_767


@dataclass(frozen=True)
class Result:
    """A verdict as a PLC reads it.

    Attributes:
        decision: The number of the verdict in :data:`DECISIONS`.
        score: The score as a float32, or NaN without one.
        part_id: The part; empty without one, and for one that does not fit.
        part_id_length: The length of the part's UTF-8 text in bytes, or 0. It is larger than the
            field for an identifier that does not fit.
    """

    decision: int
    score: float
    part_id: str
    part_id_length: int

    @classmethod
    def of(cls, line: bytes, part_id_bytes: int) -> Result:
        """Return what a PLC is given of a record.

        Args:
            line: The record of a verdict on an image or a part, as JSON.
            part_id_bytes: How many bytes the part may have.
        """
        record = msgspec.json.decode(line)
        score = record.get("score")
        with np.errstate(over="ignore"):  # a score beyond float32 is infinite
            score = math.nan if score is None else float(np.float32(score))
        part_id = record["part_id"] or ""
        length = len(part_id.encode())
        return cls(
            decision=DECISIONS[record["verdict"]],
            score=score,
            part_id=part_id if length <= part_id_bytes else "",
            part_id_length=min(length, LAST_NUMBER),
        )


def following(number: int) -> int:
    """Return the number that comes after another one: from 1 to :data:`LAST_NUMBER`, and again."""
    return number % LAST_NUMBER + 1 if number > 0 else 1
