"""Texts agree with the numbers before them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdx.remarks import remark
from kdx.text import agreeing, number_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 images are"), (1, "1 image is"), (2, "2 images are"), (1001, "1,001 images are")],
)
def test_a_text_agrees_with_its_number(count, expected):
    assert number_of(count, "[image is|images are]") == expected


def test_brackets_without_a_choice_stay():
    assert agreeing(1, "[a] and [b|c]|[d") == "[a] and b|[d"


def test_a_remark_agrees_with_the_number_of_its_names():
    text = "[image was|images were] left out"
    assert [str(one) for one in remark("odd", text, ["a"])] == ["1 image was left out: a"]
    assert [str(one) for one in remark("odd", text, ["a", "b"])] == ["2 images were left out: a, b"]


def test_every_remark_has_both_forms():
    """The text of a remark begins with a noun or a verb that depends on the number before it."""
    # "of 12 images [has|have]", "good [image is|images are]".
    plural = re.compile(r'remark\(\s*"\w+",\s*f?"(?![^"]*\[[^"|]*\|)(?!of \{)[^"]*"')
    files = [file for package in ("kdx", "kd_train") for file in (ROOT / package).rglob("*.py")]
    found = {f"{file.name}: {match.group()}" for file in files for match in plural.finditer(file.read_text("utf-8"))}
    assert len(files) > 100
    assert {one for one in found if "nothing_to_resume" not in one} == set()
