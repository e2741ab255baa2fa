"""Text is UTF-8 whatever the system's locale is: whoever opens or runs something says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "docs", "embed", "kd_export", "kd_train", "kdx", "kernels", "tests")


def unstated(source: str) -> Iterator[int]:
    """Yield the lines of calls that read, write or run in the encoding of the locale."""
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        options = {option.arg: option.value for option in call.keywords}
        if "encoding" in options or None in options:
            continue
        is_method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        modes = [options.get("mode"), *call.args[0 if is_method else 1 :][:1]]
        mode = next((each.value for each in modes if isinstance(each, ast.Constant)), None)
        is_text = {
            # A method of this name without a mode may be that of something else than a path.
            "open": set(mode) <= set("rwax+t") if isinstance(mode, str) else not is_method,
            "read_text": is_method and not call.args,
            "write_text": is_method and len(call.args) == 1,
        }.get(name, False)
        run = options.get("text", options.get("universal_newlines"))
        if is_text or (isinstance(run, ast.Constant) and run.value is True):
            yield call.lineno


def test_every_text_has_its_encoding() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 500
    found = [(file, line) for file in files for line in unstated(file.read_text(encoding="utf-8"))]
    assert not [f"{file.relative_to(ROOT)}:{line}: state encoding='utf-8'" for file, line in found]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("path.read_text()", True),
        ("path.read_text(encoding='utf-8')", False),
        ("path.write_text('a')", True),
        ("path.open('w')", True),
        ("path.open('wb')", False),
        ("origin.open()", False),
        ("open(path)", True),
        ("open(path, 'rb')", False),
        ("open(path, mode='a')", True),
        ("info.open(graph, threads)", False),
        ("run(command, text=True)", True),
        ("Remark(text=text)", False),
    ],
)
def test_the_check_knows_them(source: str, expected: bool) -> None:
    assert bool(list(unstated(source))) is expected
