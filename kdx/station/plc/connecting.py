"""From the address of a PLC to a link, by the protocol that the address names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdx.station.plc.address import ModbusAddress, PlcAddress
from kdx.station.plc.link import PlcLink
from kdx.station.plc.plc import Plc


def link_to(address: PlcAddress, path: Path, say: Callable[[str], None]) -> PlcLink:
    """Return the connection to a PLC, which was tried once.

    Args:
        address: The PLC.
        path: The ledger's file.
        say: Is given what users should know. Another thread calls it too.

    Raises:
        PlcRefusesError: The PLC answers, and refuses what kdx asks.
    """
    link = PlcLink(path, plc_at(address), say)
    link.check()
    return link


def plc_at(address: PlcAddress) -> Plc:
    """Return the PLC at an address, which is not yet connected."""
    if isinstance(address, ModbusAddress):
        from kdx.station.plc.modbus import ModbusPlc

        return ModbusPlc(address)
    from kdx.station.plc.opcua import OpcUaPlc

    return OpcUaPlc(address)
