"""A verdict as a PLC reads it."""

from __future__ import annotations

import json
import math

import pytest

from kdx.station.plc.result import DECISIONS, LAST_NUMBER, Result, following
from kdx.station.record import VERDICTS


def result(**record: object) -> Result:
    return Result.of(json.dumps({"verdict": "good", "part_id": None, **record}).encode(), 32)


def test_every_verdict_has_its_number_and_none_of_them_is_0():
    assert set(DECISIONS) == set(VERDICTS)
    assert sorted(DECISIONS.values()) == [1, 2, 3, 4, 5]
    assert [verdict for verdict, number in DECISIONS.items() if number == 1] == ["good"]


@pytest.mark.parametrize(("score", "float32"), [(0.1, 0.10000000149011612), (1e300, math.inf), (-1e300, -math.inf)])
def test_a_score_is_a_float32(score, float32):
    assert result(score=score).score == float32


def test_a_record_without_a_score_has_none():
    assert math.isnan(result(score=None).score)
    assert math.isnan(result().score)  # the record of a part


def test_the_length_is_that_of_the_whole_identifier():
    assert (result(part_id="ü").part_id, result(part_id="ü").part_id_length) == ("ü", 2)
    assert (result(part_id="x" * 40).part_id, result(part_id="x" * 40).part_id_length) == ("", 40)
    assert result(part_id="x" * 70_000).part_id_length == LAST_NUMBER


def test_numbers_begin_again_at_1():
    assert [following(number) for number in (0, 1, LAST_NUMBER - 1, LAST_NUMBER)] == [1, 2, LAST_NUMBER, 1]
