"""Tables as CSV files that spreadsheets open and programs read: RFC 4180, in UTF-8.

The byte order mark makes spreadsheets take the file for UTF-8. Every text is in quotes, so that a
spreadsheet that expects another separator does not cut it, and no text begins as a formula does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from kdx.text import one_line

# How numbers are separated and written: 1.5,2 or 1,5;2, as most of Europe writes them.
CsvStyle = Literal["comma", "semicolon"]
CSV_STYLES: tuple[CsvStyle, ...] = ("comma", "semicolon")
TABLE = "verdicts.csv"
SKIPPED = "skipped"  # the verdict of an image that could not be used
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What spreadsheets take for the beginning of a formula (OWASP, "CSV injection").
_FORMULA = tuple("=+-@\t\r＝＋－＠")


def csv_lines(rows: Iterable[Mapping[str, object]], columns: Sequence[str], style: CsvStyle) -> Iterator[bytes]:
    """Yield a table's lines, the names of the columns first.

    Args:
        rows: The rows; a column that a row lacks is empty there.
        columns: The columns, in order.
        style: ``comma``: separated by commas, with decimal points; ``semicolon``: separated by
            semicolons, with decimal commas.
    """
    yield _BYTE_ORDER_MARK + _line(columns, style)
    for row in rows:
        yield _line([row.get(name) for name in columns], style)


def csv_style(*, semicolons: bool) -> CsvStyle:
    """Return the style of a table."""
    return "semicolon" if semicolons else "comma"


def path_text(path: str) -> str:
    """Return a path that no spreadsheet takes for a formula: it names the same file."""
    return f"./{path}" if path.startswith(_FORMULA) else path


def _line(cells: Iterable[object], style: CsvStyle) -> bytes:
    separator = "," if style == "comma" else ";"
    text = separator.join(_cell(cell, style) for cell in cells) + "\r\n"
    return text.encode("utf-8", "backslashreplace")  # file names may hold bytes that are no text


def _cell(value: object, style: CsvStyle) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, (int, float)):
        return repr(value) if style == "comma" else repr(value).replace(".", ",")
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    text = one_line(str(value))
    if text.startswith(_FORMULA):
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"'
