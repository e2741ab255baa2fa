"""A PLC that is a Modbus TCP server, or is reached through one, by pymodbus as the client.

Function codes 3 and 16 are used: holding registers are read and written. A request that was not
answered is never followed by another one on the same connection, whose answer could be mistaken.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ExceptionResponse

from kdx.station.plc.address import ModbusAddress, registers
from kdx.station.plc.plc import Numbers, PlcAwayError, PlcRefusesError
from kdx.station.plc.result import Result

# Where the fields begin, counted from the first register. The PLC writes ACKNOWLEDGE, and kdx all
# others; the score lies at an even register, as some PLCs need it.
HEARTBEAT, STATUS, SEQUENCE, ACKNOWLEDGE, SCORE, DECISION, PART_ID_LENGTH, PART_ID = 0, 1, 2, 3, 4, 6, 7, 8
_SECONDS = 2.0
# What an exception code of the protocol means where another request would be answered the same.
_REFUSALS = {
    1: ("it does not know the function code", "it must allow function codes 3 and 16 on holding registers"),
    2: ("it has no such registers", "correct the register or the unit in `plc`, or the PLC's program"),
    3: ("it refuses a value", "correct the PLC's program"),
}


class ModbusPlc:
    """The registers of a Modbus TCP server.

    Args:
        address: The server, and where the registers lie.
        seconds: After how many seconds a request that was not answered has failed.
    """

    def __init__(self, address: ModbusAddress, seconds: float = _SECONDS) -> None:
        self._address = address
        self._client = ModbusTcpClient(address.host, port=address.port, timeout=seconds, retries=0)

    @property
    def name(self) -> str:
        """The host and the port."""
        return f"{self._address.host}:{self._address.port}"

    @property
    def part_id_bytes(self) -> int:
        """As in the address."""
        return self._address.part_id_bytes

    @property
    def acknowledges(self) -> bool:
        """As in the address."""
        return self._address.acknowledges

    @property
    def max_age(self) -> float | None:
        """As in the address."""
        return self._address.max_age

    def open(self) -> None:
        """Connect, and read all registers."""
        if not self._client.connect():
            raise PlcAwayError(f"no connection to {self.name}")
        self._read(0, registers(self.part_id_bytes))

    def read(self) -> Numbers:
        """Read both numbers at once."""
        return Numbers(*self._read(SEQUENCE, 2))

    def write_back(self) -> None:
        """Write the registers of the result as they were read, and the number last."""
        values = self._read(0, registers(self.part_id_bytes))
        numbers = Numbers(values[SEQUENCE], values[ACKNOWLEDGE])
        if not (self.acknowledges and numbers.is_pending):
            self._write(SCORE, values[SCORE:])
            self._write(SEQUENCE, [numbers.sequence])

    def write_life(self, heartbeat: int, status: int) -> None:
        """Write two registers at once."""
        self._write(HEARTBEAT, [heartbeat, status])

    def write_result(self, result: Result) -> None:
        """Write the registers from the score to the part at once."""
        score, order = struct.pack(">f", result.score), self._address.order
        text = result.part_id.encode().ljust(self.part_id_bytes, b"\0")
        values = _values(bytes(score["ABCD".index(each)] for each in order))
        values += [result.decision, result.part_id_length]
        values += _values(text, "little" if order in {"BADC", "DCBA"} else "big")
        self._write(SCORE, values)

    def write_sequence(self, sequence: int) -> None:
        """Write one register."""
        self._write(SEQUENCE, [sequence])

    def close(self) -> None:
        """Close the socket."""
        self._client.close()

    def _read(self, offset: int, count: int) -> list[int]:
        first = self._address.register + offset
        where = f"registers {first} to {first + count - 1}"
        answer = self._ask(
            f"cannot read {where}",
            lambda: self._client.read_holding_registers(first, count=count, device_id=self._address.unit),
        )
        if len(answer.registers) != count:
            raise PlcAwayError(f"{self.name} answered with {len(answer.registers)} registers instead of {count}")
        return list(answer.registers)

    def _write(self, offset: int, values: Sequence[int]) -> None:
        first = self._address.register + offset
        self._ask(
            f"cannot write registers {first} to {first + len(values) - 1}",
            lambda: self._client.write_registers(first, list(values), device_id=self._address.unit),
        )

    def _ask(self, failure: str, ask: Callable[[], Any]) -> Any:
        """Return the answer to a request.

        Raises:
            PlcAwayError: There is none, or it says that there may be one later.
            PlcRefusesError: It is a refusal.
        """
        try:
            answer = ask()
        except (ModbusException, OSError) as error:
            raise PlcAwayError(f"{self.name} does not answer") from error
        if isinstance(answer, ExceptionResponse):
            code = answer.exception_code
            text = f"kdx {failure} of unit {self._address.unit} at {self.name}"
            if code in _REFUSALS:
                reason, fix = _REFUSALS[code]
                raise PlcRefusesError(f"{text}: {reason} (exception code {code})", fix=fix)
            raise PlcAwayError(f"{text}: exception code {code}")
        return answer


def _values(data: bytes, order: str = "big") -> list[int]:
    """Return the registers that hold bytes, two each."""
    return [value for (value,) in struct.iter_unpack(">H" if order == "big" else "<H", data)]
