"""The README is short, names what exists, and its first two commands are those that the project
promises."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LARGEST, MOST_ROWS = 9_000, 10


def test_it_is_short() -> None:
    assert len(README.encode()) <= LARGEST


def test_the_two_commands_are_the_first_two() -> None:
    block = README.split("```")[1]
    lines = [line.split("#")[0].strip() for line in block.strip().splitlines()]
    assert lines == ['pip install -e ".[demo]" && kdx demo', 'pip install -e ".[test]" && pytest']


def test_it_shows_one_table_of_results() -> None:
    (body,) = re.findall(r"<!-- table \w+ -->\n(.*?)<!-- end -->", README, re.DOTALL)
    rows = [line for line in body.splitlines() if line.startswith("|")][2:]
    assert 0 < len(rows) <= MOST_ROWS


def test_it_links_every_page() -> None:
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}
    # The site's own front page and the list of guides say what the README says; these references
    # are the site's.
    pages -= {"docs/index.md", "docs/guides/index.md", "docs/api.md"}
    assert set(re.findall(r"\]\((docs/[\w/-]+\.md)\)", README)) == pages
