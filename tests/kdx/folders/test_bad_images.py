"""Images that cannot be read are skipped up to a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdx.errors import ImageError
from kdx.folders.bad_images import skip_bad

EMPTY = ImageError("'a.png' is empty (0 bytes)", fix="use an intact image, or leave it out")


def test_up_to_a_limit_the_reasons_are_kept() -> None:
    bad: dict[str, str] = {}
    skip_bad(Path("a.png"), EMPTY, bad, 1, 0)
    assert bad == {"a.png": "'a.png' is empty (0 bytes)"}


@pytest.mark.parametrize(
    ("later", "rest"),
    [
        (0, ""),
        (1, "; the image after it was not looked at"),
        (1200, "; the 1,200 images after it were not looked at"),
    ],
)
def test_beyond_it_the_error_says_how_to_skip_more_and_what_was_not_looked_at(later: int, rest: str) -> None:
    bad = {"b.png": "it is damaged"}
    with pytest.raises(ImageError) as raised:
        skip_bad(Path("a.png"), EMPTY, bad, 1, later)
    assert raised.value.message == f"'a.png' is empty (0 bytes){rest}"
    assert (
        raised.value.fix == "skip such images with a larger `max_bad_images`, or use an intact image, or leave it out"
    )
    assert list(bad) == ["b.png", "a.png"]
