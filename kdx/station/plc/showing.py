"""How the PLC sees a result: which number it has, and in which order it is written.

Where the PLC acknowledges, it takes the result whose number is neither 0 nor the one that it
acknowledged. So a result that is shown is withdrawn by the number 0 before another one is written
over it, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Callable

from kdx.station.ledger import Ledger
from kdx.station.plc.plc import Numbers, Plc
from kdx.station.plc.result import LAST_NUMBER, Result, following

_FACT = "plc"


class Showing:
    """Lets a PLC see results.

    Args:
        plc: The PLC.
        say: Is given what users should know.
    """

    def __init__(self, plc: Plc, say: Callable[[str], None]) -> None:
        self._plc, self._say = plc, say
        self._has_seen_others = False

    def show(self, ledger: Ledger, message: int, line: bytes) -> int:
        """Let the PLC see a result, and return its sequence number.

        The number is kept before the PLC sees it: after a kill, the result has it again.
        """
        numbers = self._plc.read()
        sequence, is_kept = self._number(ledger, message, numbers)
        if not is_kept:
            with ledger.transaction():
                ledger.set_fact(_FACT, f"{message} {sequence}")
        elif self._plc.acknowledges and sequence == numbers.acknowledge:
            return sequence
        result = Result.of(line, self._plc.part_id_bytes)
        if result.part_id_length > self._plc.part_id_bytes:
            self._say(
                f"the PLC gets no part with result {sequence}: the identifier has {result.part_id_length} bytes, "
                f"and the PLC's field has {self._plc.part_id_bytes}"
            )
        if not self._plc.acknowledges or numbers.is_pending:
            self._plc.write_sequence(0)
        self._plc.write_result(result)
        self._plc.write_sequence(sequence)
        return sequence

    def withdraw(self, ledger: Ledger, message: int) -> bool:
        """Let the PLC not see a result any more; return whether it took it before."""
        if not self._plc.acknowledges:  # it had the result, or never will
            return False
        before, number = self._kept(ledger)
        if self._plc.read().is_pending:
            self._plc.write_sequence(0)
        return before == message and self._plc.read().acknowledge == number

    def _kept(self, ledger: Ledger) -> tuple[int, int]:
        """Return the message that was shown last, and its number."""
        kept = ledger.fact(_FACT)
        before, number = (-1, 0) if kept is None else map(int, kept.split())
        return before, number

    def _number(self, ledger: Ledger, message: int, numbers: Numbers) -> tuple[int, bool]:
        """Return the number of a result, and whether it was kept for it before."""
        before, number = self._kept(ledger)
        shown = numbers.sequence
        is_other = self._plc.acknowledges and numbers.is_pending and (before, number) != (message, shown)
        if is_other and not self._has_seen_others:
            self._has_seen_others = True
            self._say(
                f"the PLC at {self._plc.name} shows result {shown}, which it did not take and which is of another "
                "program, or of another folder of kdx, where it still waits: it is withdrawn, and the PLC gets the "
                "verdicts of this folder"
            )
        if before == message:
            return number, True
        if before < 0:
            number = numbers.acknowledge if self._plc.acknowledges else shown
        number = following(number if number <= LAST_NUMBER else 0)
        # The PLC would not see that it is another result.
        while self._plc.acknowledges and number in numbers:
            number = following(number)
        return number, False
