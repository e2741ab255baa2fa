"""Text of unknown origin, made fit for a terminal."""

from __future__ import annotations

import math
import re

# What a terminal would obey instead of showing: control characters but for the line feed and the tab, marks that change
# the direction of writing, and lone surrogates, which stand for bytes of a file's name that are no text.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def visible(text: str) -> str:
    r"""Return the text with whatever a terminal would obey written out: an escape character as ``\x1b``."""
    return _OBEYED.sub(lambda found: ascii(found.group())[1:-1], text)


def visible_json(text: str) -> str:
    """Return a JSON document that says the same, with whatever a terminal would obey written as JSON escapes it."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def without_colours(text: str) -> str:
    """Return a library's message without the colours and bold letters that it set for a terminal."""
    return _COLOURS.sub("", text)


def percent(value: float | None) -> str:
    """Format a share for a table; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """Format a number for a table; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"
