"""Tables as spreadsheets read them: separators, quotes, encoding, and no formulas."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from kdx.storage.spreadsheet import csv_lines, path_text

NASTY = (
    "=1+1.png",
    "+a.png",
    "-b.png",
    "@c.png",
    "\t=d.png",
    "＝e.png",
    'q"u,o;t=.png',
    "zeile\n=2.png",
    "größe µ.png",
)


def table(rows, style="comma"):
    """Read a table as a spreadsheet does: its encoding from the mark, cells between separators."""
    content = b"".join(csv_lines(rows, ["image", "score"], style))
    assert content.startswith(b"\xef\xbb\xbf")
    separator = "," if style == "comma" else ";"
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=separator, strict=True))


@pytest.mark.parametrize("style", ["comma", "semicolon"])
@pytest.mark.parametrize("name", NASTY)
def test_no_file_name_is_a_formula_or_breaks_its_row(name, style):
    head, row = table([{"image": path_text(name), "score": 0.5}], style)
    assert head == ["image", "score"]
    assert row[1] == ("0.5" if style == "comma" else "0,5")
    assert row[0][0] not in "=+-@\t\r＝"
    # A spreadsheet that expects the other separator sees no formula either.
    other = ";" if style == "comma" else ","
    content = b"".join(csv_lines([{"image": path_text(name)}], ["image"], style)).decode("utf-8-sig")
    cells = [cell for line in csv.reader(io.StringIO(content, newline=""), delimiter=other) for cell in line]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in cells)


def test_paths_stay_paths_and_other_text_is_marked():
    assert path_text("=1+1.png") == "./=1+1.png"
    assert path_text("parts/=1.png") == "parts/=1.png"
    assert table([{"image": "=HYPERLINK(1)"}])[1] == ["'=HYPERLINK(1)", ""]


def test_numbers_are_exact_and_missing_values_are_empty():
    third = float(np.float32(1 / 3))
    rows = [{"image": "a", "score": value} for value in (third, -0.25, 7, None, float("nan"), float("inf"))]
    cells = [row[1] for row in table(rows)[1:]]
    assert cells == [repr(third), "-0.25", "7", "", "", ""]
    assert table([{"image": ["black", "flat"], "score": -1.5e-07}], "semicolon")[1] == ["black, flat", "-1,5e-07"]


def test_bytes_that_are_no_text_are_written_out():
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    assert table([{"image": name}])[1][0] == r"caf\udce9.png"
