"""Texts agree with the numbers before them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdx.errors import KdxError
from kdx.remarks import remark
from kdx.text import agreeing, interval, near_names, number_of, without_passwords

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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'rtsp://user:secret@host/cam' is gone", "'rtsp://user:***@host/cam' is gone"),
        ("no folder 'rtsp:/user:secret@host/cam'", "no folder 'rtsp:/user:***@host/cam'"),
        ("mqtt://:secret@h/t and opc.tcp://u:se/c@ret@h:4840", "mqtt://:***@h/t and opc.tcp://u:***@h:4840"),
        ("http://user:se#cr?et@h:80/", "http://user:***@h:80/"),
        ("'http://h/cam?channel=1&pwd=secret&x=2'", "'http://h/cam?channel=1&pwd=***&x=2'"),
    ],
)
def test_the_password_of_a_url_is_never_shown(text, expected):
    assert without_passwords(text) == expected
    error = KdxError(text, expected=text, received=text, fix=text)
    for shown in (str(error), repr(error), str(error.as_dict())):
        assert shown.count("***") >= expected.count("***")
        assert "se" not in shown.replace("see", "").replace("user", "")


@pytest.mark.parametrize(
    "text",
    [
        "mqtts://USER@HOST:PORT/TOPIC",
        "http://127.0.0.1:8080/v1/verdicts",
        "C:/parts/a:b@c.png",
        "line:3@top.mp4",
        "genicam:/opt/maker/producer.cti?serial=1",
    ],
)
def test_other_texts_stay_as_they_are(text):
    assert without_passwords(text) == text


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.2, 0.3, "0.2 to 0.3"),
        (0.2, None, "from 0.2, not bounded above"),
        (None, 0.3, "up to 0.3, not bounded below"),
        (None, None, "bounded on neither side"),
    ],
)
def test_an_end_that_is_not_bounded_is_said(low, high, said) -> None:
    assert interval(low, high) == said


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("--size", ["--image-size"]),
        ("--epoch", ["--epochs", "--teacher-epochs"]),
        ("--epohcs", ["--epochs"]),
        ("--ep", ["--epochs", "--teacher-epochs"]),
        ("--im", ["--image-size"]),
        ("--e", ["--epochs", "--teacher-epochs"]),
        ("--lr", []),
        ("--", []),
        ("--nothing-of-it", []),
    ],
)
def test_names_that_contain_a_word_are_nearer_than_those_that_look_like_it(word, near) -> None:
    assert near_names(word, ["--tile", "--seed", "--teacher-epochs", "--epochs", "--image-size"]) == near
