"""Errors of the library name parameters, because it serves Python callers too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# An option that is not part of a command that the text spells out: "run kdx calibrate BUNDLE DATA
# --per-position".
OPTION = re.compile(r"(?<![\w-])--[a-z]")
COMMAND = re.compile(r"\b(kdx|ray|pip|docker|curl)\b[^;]*--[a-z]")
RAISED_WITH = ("expected", "received", "fix")


def modules() -> list[Path]:
    """Return the modules of the library."""
    found = [path for name in ("kdx", "kd_train", "kd_export") for path in (ROOT / name).rglob("*.py")]
    return [path for path in found if ROOT / "kdx/cli" not in path.parents]


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each detail of an error; X stands for values."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in RAISED_WITH:
                    yield node.lineno, _text(keyword.value)


def _text(node: ast.expr) -> str:
    parts = (each for each in ast.walk(node) if isinstance(each, (ast.Constant, ast.FormattedValue)))
    if isinstance(node, ast.JoinedStr):
        parts = iter(node.values)  # type: ignore[arg-type]
    return "".join(str(each.value) if isinstance(each, ast.Constant) else "X" for each in parts)


def names_an_option(text: str) -> bool:
    """Whether a text names an option outside of a command."""
    return OPTION.search(text) is not None and COMMAND.search(text) is None


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("choose another --out", True),
        ("choose another `out`", False),
        ("run kdx calibrate BUNDLE DATA --per-position", False),
        ("--tile 256", True),
        ("a dash -- no option", False),
    ],
)
def test_the_check_itself(text, is_one):
    assert names_an_option(text) is is_one


@pytest.mark.slow
def test_details_of_errors_name_parameters():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in modules()
        for line, text in texts(path)
        if names_an_option(text)
    ]
    assert not found, "\n".join(found)
