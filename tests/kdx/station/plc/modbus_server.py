"""A PLC for tests: pymodbus's own server on a loopback port, and a PLC's program behind it.

The program runs after every request that writes, as a PLC's scan may do. So it sees every state
that a PLC can see.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

REGISTER, COUNT = 100, 24


class Taken(NamedTuple):
    """A result as the PLC's program read it."""

    sequence: int
    decision: int
    score: float
    part_id: str


class Plc:
    """The registers and the program. They survive a restart of the server.

    Args:
        acknowledges: Whether the program acknowledges; otherwise it compares the number before and
            after a result.
    """

    def __init__(self, *, acknowledges: bool = True) -> None:
        self.registers = [0] * COUNT
        self.taken: list[Taken] = []
        self.beats: list[tuple[int, int]] = []
        self.takes = True
        self.states: list[Taken] = []
        self.refuses = 0  # the exception code with which it answers, or 0
        self.refuses_results = 0  # the same, where a result is written
        self._acknowledges = acknowledges
        self._before = 0
        self._changed = threading.Condition()

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is the case; a test that waits in vain ends after a while."""
        with self._changed:
            assert self._changed.wait_for(is_so, 60)

    def read(self) -> Taken:
        """Read a result as it stands in the registers."""
        words = struct.pack(f">{COUNT}H", *self.registers)
        text = words[16 : 16 + 32].rstrip(b"\0")
        return Taken(self.registers[2], self.registers[6], struct.unpack(">f", words[8:12])[0], text.decode())

    def scan(self) -> None:
        """Run the program once."""
        if not self.takes:
            return
        sequence = self.registers[2]
        if self._acknowledges and sequence not in {0, self.registers[3]}:
            self.taken.append(self.read())
            self.registers[3] = sequence
        elif not self._acknowledges and sequence not in {0, self._before}:
            self.taken.append(self.read())
            self._before = sequence

    async def request(
        self, code: int, start: int, address: int, count: int, registers: list[int], values: list[int] | None
    ) -> Any:
        """Answer a request as the server asks it."""
        from pymodbus.constants import ExcCodes

        refuses = self.refuses or (self.refuses_results if values is not None and address - start == 4 else 0)
        if refuses:
            return ExcCodes(refuses)
        registers[:] = self.registers
        if values is not None:
            offset = address - start
            with self._changed:
                self.registers[offset : offset + count] = values
                if offset == 0:
                    self.beats.append((values[0], values[1]))
                self.states.append(self.read())
                self.scan()
                self._changed.notify_all()
            registers[:] = self.registers
        return None


class Server:
    """The server of a PLC, in a thread of its own. A context manager."""

    def __init__(self, plc: Plc, port: int = 0) -> None:
        self.port = port or free_port()
        self.plc = plc
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"modbus://127.0.0.1:{self.port}/{REGISTER}"

    def __enter__(self) -> Server:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._server.shutdown())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice

        data = SimData(REGISTER, values=[0] * COUNT, datatype=DataType.REGISTERS)
        device = SimDevice(1, [data], action=self._answer)
        self._server = ModbusTcpServer(device, address=("127.0.0.1", self.port))
        await self._server.serve_forever(background=True)

    async def _answer(self, *request: Any) -> Any:
        return await self.plc.request(*request)


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
