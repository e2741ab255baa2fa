"""Columns made without pandas are those that ``pyarrow.array`` makes."""

from __future__ import annotations

import math

import pytest

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install -e '.[archive]'")

from kdx.archive.columns import column  # noqa: E402

TEXTS = ["", "a", None, "é\x00", "漢字 🙂", *["nine more"] * 9]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pyarrow.string(), TEXTS),
        (pyarrow.binary(), [text and text.encode() for text in TEXTS]),
        (pyarrow.binary(), [b"\xff\xfe"]),
        (pyarrow.float64(), [0.1, None, -0.0, math.inf, 5e-324]),
        (pyarrow.float32(), [0.1, None, 1e38]),
        *((kind, values) for kind in (pyarrow.string(), pyarrow.float64()) for values in ([], [None] * 20)),
    ],
    ids=str,
)
def test_a_column_is_the_one_that_pyarrow_makes(kind, values):
    made = column(kind, values)
    made.validate(full=True)
    assert made.equals(pyarrow.array(values, kind))


def test_a_value_that_is_no_number_stays_one_beside_nulls():
    made = column(pyarrow.float64(), [math.nan, None])
    assert made.null_count == 1
    assert math.isnan(made[0].as_py())
