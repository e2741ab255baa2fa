"""The station as a table, and what is on record."""

from __future__ import annotations

from benchmarks.results import Result, result_file
from benchmarks.station.table import station_table
from tests.robustness.test_station import require


def test_what_is_on_record():
    record = Result.load(result_file("station")).record
    found, parts = record["found"], record["budget"]["parts"]
    require(found, parts)
    memory = found["load"]["memory_mb"]
    assert memory[-1] < 1.05 * memory[0]
    rows = [line for line in station_table(record) if f"{parts:,} of {parts:,}" in line]
    assert len(rows) == 2
