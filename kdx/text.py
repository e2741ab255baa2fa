"""Making text of unknown origin safe for a terminal."""

from __future__ import annotations

import math
import re

# The characters that a terminal interprets instead of showing: control characters except line feed
# and tab, marks that change the direction of writing, and lone surrogates, which represent bytes of
# a file name that are not valid text.
_INTERPRETED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def visible(text: str) -> str:
    r"""Return the text with such characters written out: an escape character as ``\x1b``."""
    return _INTERPRETED.sub(lambda found: ascii(found.group())[1:-1], text)


def visible_json(text: str) -> str:
    """Return the same JSON document with such characters written as JSON escapes."""
    return _INTERPRETED.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def without_colours(text: str) -> str:
    """Return a library's message without its escape codes for colours and bold letters."""
    return _COLOURS.sub("", text)


def percent(value: float | None) -> str:
    """Format a share for a table; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """Format a number for a table; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"
