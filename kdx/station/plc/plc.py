"""A PLC as kdx sees it, whatever the protocol."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kdx.errors import KdxError
from kdx.station.plc.result import Result


class PlcError(KdxError):
    """The PLC does not have what was written to it."""


class PlcAwayError(PlcError):
    """The PLC does not answer; it may later."""


class PlcRefusesError(PlcError):
    """The PLC answers, and refuses what kdx asks: its program or an option must change."""


class Numbers(NamedTuple):
    """The numbers of results that the PLC holds.

    Attributes:
        sequence: The number of the result that is shown; 0 for none.
        acknowledge: The number of the result that the PLC took last; 0 for none.
    """

    sequence: int
    acknowledge: int

    @property
    def is_pending(self) -> bool:
        """Whether a result is shown that was not taken, where the PLC acknowledges."""
        return self.sequence not in {0, self.acknowledge}


class Plc(Protocol):
    """The memory of a PLC. Every method raises a :class:`PlcError` where it cannot do its work."""

    @property
    def name(self) -> str:
        """How messages name the PLC."""
        ...

    @property
    def part_id_bytes(self) -> int:
        """How many bytes the identifier of a part may have."""
        ...

    @property
    def acknowledges(self) -> bool:
        """Whether the PLC says which result it took."""
        ...

    @property
    def max_age(self) -> float | None:
        """The seconds after which a result is not given to the PLC any more, or None."""
        ...

    def open(self) -> None:
        """Connect, and check that everything that is written exists."""
        ...

    def read(self) -> Numbers:
        """Return the numbers of the result that is shown, and of the one that was taken."""
        ...

    def write_back(self) -> None:
        """Write the result and its number as they stand, unless the PLC may be taking them.

        A PLC that refuses results refuses this too, before anything is judged.
        """
        ...

    def write_life(self, heartbeat: int, status: int) -> None:
        """Write the heartbeat and the status."""
        ...

    def write_result(self, result: Result) -> None:
        """Write a result without its number: the PLC takes no notice of it yet."""
        ...

    def write_sequence(self, sequence: int) -> None:
        """Write the number of the result that was written, or 0 while one is being written."""
        ...

    def close(self) -> None:
        """End the connection, whatever its state is."""
        ...
