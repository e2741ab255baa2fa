"""Messages, comments and pages keep to the words of the field; CONTRIBUTING says which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What trips readers who are not native speakers, and what is written instead.
INSTEAD = {
    r"\banew\b": "again",
    r"\bg(?:o|oes|oing|one) on with\b": "continue, resume",
    r"\bpassed over\b": "skipped",
    r"\bh(?:e|o)ld(?:s|ing)? (?:it |them )?against\b": "compare with",
    r"\bh(?:e|o)ld(?:s|ing)? to\b": "check against",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\btold apart\b|\bdefects are told\b": "distinguish, detect",
    r"\bbehind the (?:graph|taps?|stem|map|teacher|student|network)\b": "after",
    r"\b(?:is|are) not possible\b": "invalid X",
    r"\bLikewise\.": "the whole noun phrase",
    r"\bshines? in\b": "the blur leaks heat",
    r"\bgoes with the next\b": "is removed by the next",
    r"\bways_of\b|\bcircles_of\b": "backend_precision_pairs, shared_teacher_groups",
}
FOLDERS = ("kdx", "kd_train", "kd_export", "kernels", "benchmarks", "embed", "docs", "tests")
SUFFIXES = {".c", ".cpp", ".css", ".h", ".html", ".hpp", ".js", ".md", ".py", ".toml"}


def sources() -> list[Path]:
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for folder in FOLDERS:
        files += [file for file in sorted((ROOT / folder).rglob("*")) if file.suffix in SUFFIXES]
    files.remove(Path(__file__))  # it names the words
    return files


@pytest.mark.parametrize("pattern", INSTEAD)
def test_words_that_trip_readers_do_not_return(pattern: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sources()
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert not found, f"write: {INSTEAD[pattern]}\n" + "\n".join(found)
