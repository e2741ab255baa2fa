"""A PLC's URL says everything that kdx needs, and nothing in it is without effect."""

from __future__ import annotations

import pytest

from kdx.errors import OptionError
from kdx.station.plc.address import ModbusAddress, parse_plc


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("modbus://plc/0", ModbusAddress(host="plc", port=502, register=0)),
        ("modbus://[fe80::1]:1502/100?unit=255", ModbusAddress(host="fe80::1", port=1502, register=100, unit=255)),
        (
            "modbus://10.0.0.5/7?order=CDAB&part_id_bytes=8&acknowledge=no",
            ModbusAddress(host="10.0.0.5", port=502, register=7, order="CDAB", part_id_bytes=8, acknowledges=False),
        ),
        ("modbus://plc/7?max_age=2.5", ModbusAddress(host="plc", port=502, register=7, max_age=2.5)),
        ("modbus://plc/65512", ModbusAddress(host="plc", port=502, register=65_512)),
    ],
)
def test_a_url_names_registers(url, address):
    assert parse_plc(url) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "does not name a PLC"),
        ("plc", "does not name a PLC"),
        ("tcp://plc/0", "does not name a PLC"),
        ("modbus:///0", "does not name a PLC"),
        ("modbus://plc/0#1", "does not name a PLC"),
        ("modbus://plc:99999/0", "is not a URL"),
        ("modbus://plc", "invalid: the register"),
        ("modbus://plc/holding", "invalid: the register"),
        ("modbus://plc/-1", "invalid: the register"),
        ("modbus://plc/65513", "invalid: the register"),
        ("modbus://user@plc/0", "names a user"),
        ("modbus://plc/0?unit=256", "invalid: unit"),
        ("modbus://plc/0?unit=1&unit=2", "says unit twice"),
        ("modbus://plc/0?units=1", "unknown option: units"),
        ("modbus://plc/0?unit", "unknown option: unit"),
        ("modbus://plc/0?order=abcd", "invalid: order"),
        ("modbus://plc/0?part_id_bytes=7", "invalid: part_id_bytes"),
        ("modbus://plc/0?part_id_bytes=202", "invalid: part_id_bytes"),
        ("modbus://plc/0?acknowledge=false", "invalid: acknowledge"),
        ("modbus://plc/0?max_age=0", "invalid: max_age"),
        ("modbus://plc/0?max_age=86401", "invalid: max_age"),
        ("modbus://plc/0?max_age=nan", "invalid: max_age"),
        ("modbus://plc/0?max_age=10s", "invalid: max_age"),
    ],
)
def test_other_texts_are_refused(url, message):
    with pytest.raises(OptionError, match=message):
        parse_plc(url)
