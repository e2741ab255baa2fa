"""Text for people: safe on a terminal, and in the terms of the program that shows it.

The library serves Python callers and the command line, so its messages name parameters, in
backticks: "pass `force=True`". A program whose users give parameters in another form sets
:data:`spelling`, and shows its users each message as :func:`spelled` returns it. Results of Python
calls keep the parameters' names.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import NamedTuple, TypeAlias

# Returns how users give a parameter, or a parameter and its value; None for one that they cannot
# give.
Spelling: TypeAlias = Callable[[str, str | None], str | None]
spelling: ContextVar[Spelling | None] = ContextVar("how users of this program give parameters", default=None)
_PARAMETER = re.compile(r"`([a-z][a-z0-9_-]*)(?:=([^`]+))?`")

# The characters that a terminal interprets instead of showing: control characters except line feed
# and tab, marks that change the direction of writing, and lone surrogates, which represent bytes of
# a file name that are not valid text.
_INTERPRETED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# User and password of a URL, or of a path that was made of one. A password may hold any sign. Some
# cameras want it in the query. Lengths are bounded: without, a long text takes the square of its
# length.
_PASSWORD = re.compile(r"(?P<user>(?<![\w.+-])[A-Za-z][\w.+-]{0,31}:/{1,2}[^\s/:@]{0,255}):\S{0,1023}@")
_IN_QUERY = re.compile(r"(?P<name>[?&](?:pass\w*|pwd|token|secret)=)[^\s&'\"]*", re.IGNORECASE)
# The letters from which on a part of a name stands for it.
_WHOLE_WORD = 3
_FORMS = re.compile(r"\[([^][|]*)\|([^][|]*)\]")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Line(NamedTuple):
    """A line of a result.

    Attributes:
        text: What it says.
        label: A beginning that draws attention; empty where nothing needs any.
        failed: Whether it says that something failed.
    """

    text: str
    label: str = ""
    failed: bool = False


def visible(text: str) -> str:
    r"""Return the text with such characters written out: an escape character as ``\x1b``."""
    return _INTERPRETED.sub(lambda found: ascii(found.group())[1:-1], text)


def without_passwords(text: str) -> str:
    """Return the text with ``***`` for the password of each URL: ``rtsp://USER:***@HOST``."""
    return _IN_QUERY.sub(r"\g<name>***", _PASSWORD.sub(r"\g<user>:***@", text))


def one_line(text: str) -> str:
    r"""Return the text like :func:`visible`, with line feeds and tabs written out too: ``\n``."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def visible_json(text: str) -> str:
    """Return the same JSON document with such characters written as JSON escapes."""
    return _INTERPRETED.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def without_colours(text: str) -> str:
    """Return a library's message without its escape codes for colours and bold letters."""
    return _COLOURS.sub("", text)


def spelled(text: str, by: Spelling | None = None) -> str:
    """Return a message with its parameters, like `resume` or `epochs=3`, as users give them.

    Args:
        text: The message; nothing else in it is changed.
        by: How they are given; None for the program's :data:`spelling`.
    """
    write = by or spelling.get()
    if write is None:
        return text
    return _PARAMETER.sub(lambda found: write(*found.groups()) or found.group(), text)


def near_names(word: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Return the names that a user may have meant by another one.

    First come those that begin with it, then those of which a word does, then those that contain
    it, the shortest first; else those that look like it. To one or two letters, only beginnings.

    Args:
        word: What the user wrote, with or without dashes before it.
        names: The names that exist.
        most: How many are returned at most.
    """
    names, bare = sorted(set(names), key=lambda name: (len(name), name)), word.lstrip("-")
    if not bare:
        return []
    is_short = len(bare) < _WHOLE_WORD

    def likeness(name: str) -> int:
        name = name.lstrip("-")
        words = re.split(r"[-_ ]", name)
        tests = name.startswith(bare), any(each.startswith(bare) for each in words), not is_short and bare in name
        return tests.index(True) if True in tests else len(tests)

    found = sorted((name for name in names if likeness(name) < 3), key=likeness)
    return found[:most] or ([] if is_short else difflib.get_close_matches(word, names, most))


def agreeing(count: int, text: str) -> str:
    """Return a text whose forms agree with a number: "[image is|images are]", one or any other."""
    return _FORMS.sub(lambda found: found.group(1 if count == 1 else 2), text)


def number_of(count: int, text: str) -> str:
    """Return a number and a text that agrees with it: ``number_of(1, "[image|images]")``."""
    return f"{count:,} {agreeing(count, text)}"


def number_of_threads(count: int) -> str:
    """Return a number of threads in words."""
    return number_of(count, "[thread|threads]")


def interval(low: float | None, high: float | None) -> str:
    """Return an interval for people; an end that is None is not bounded."""
    if low is None or high is None:
        ends = (*(() if low is None else (f"from {low:.4g}",)), *(() if high is None else (f"up to {high:.4g}",)))
        return f"{ends[0]}, not bounded {'above' if high is None else 'below'}" if ends else "bounded on neither side"
    return f"{low:.4g} to {high:.4g}"


def percent(value: float | None) -> str:
    """Format a share for a table; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """Format a number for a table; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"
