"""The page of guarantees names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| (?!situation|-)", line)]
# `path::name`, `path`, or `::name`, which is in the file that was named before it.
_TEST = re.compile(r"`(?P<path>(?:embed/)?tests/[\w/]+\.(?:py|cpp))?(?:::(?P<name>\w+))?`")


def named_in(row: str) -> list[tuple[str, str]]:
    """Return the file and the test, empty for the whole file, that the last column of a row
    names."""
    found, path = [], ""
    for match in _TEST.finditer(row.rsplit(" | ", 1)[1]):
        path = match["path"] or path
        found.append((path, match["name"] or ""))
    return found


def test_the_page_says_something() -> None:
    assert len(ROWS) > 100


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:60])
def test_each_row_names_tests_that_exist(row: str) -> None:
    named = named_in(row)
    assert named
    for path, name in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        definition = rf"\b{name}\b" if path.endswith(".cpp") else rf"^ *def {name}\("
        assert not name or re.search(definition, source, re.MULTILINE), f"{path} has no {name}"
