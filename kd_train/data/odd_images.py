"""The few images that are unlike all others, and would decide what a detector accepts.

A detector takes what its training images have in common: one odd size among a hundred images makes a detector of files
of any size that refuses the camera, and one colour image among grey ones makes it refuse mono frames. Where two thirds
of the images or more agree in size, in colour or in depth, the others are odd. Where fewer do, the images are mixed and
are used as they are.

Grey is what shows grey: an image whose three channels are equal everywhere is no colour image among grey ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from kd_train.data.image_records import ImageRecord
from kdx.errors import DataError
from kdx.remarks import Remark, remark, shorten

OddImages = Literal["stop", "skip", "keep"]
ODD_IMAGES: tuple[OddImages, ...] = ("stop", "skip", "keep")
_MOST = 2 / 3
T = TypeVar("T")


@dataclass(frozen=True)
class _Odd:
    """Images that are odd in one respect."""

    kind: str
    what: str
    expected: str
    kept: str
    records: tuple[ImageRecord, ...]


def settle(
    records: Sequence[ImageRecord], choice: OddImages, *, channels: str = "auto"
) -> tuple[list[ImageRecord], list[Remark]]:
    """Return the images to train on, and remarks on the odd ones.

    Args:
        records: All images.
        choice: ``stop``: raise; ``skip``: leave the odd ones out; ``keep``: use them, whatever that makes of the
            detector.
        channels: With a number of channels that the user chose, colour decides nothing.

    Raises:
        DataError: There are odd images, and the choice is ``stop``.
    """
    odd = [one for one in (_sizes(records), _colours(records, channels), _depths(records)) if one is not None]
    if odd and choice == "stop":
        first = odd[0]
        raise DataError(
            f"{len(first.records)} of {len(records)} images {first.what}",
            expected=first.expected,
            received=shorten(_described(record) for record in first.records),
            fix=f"remove or repair them; or --odd-images skip leaves them out; or --odd-images keep: {first.kept}",
        )
    if choice == "keep":
        return list(records), [
            each
            for one in odd
            for each in remark(one.kind, f"images {one.what} and were used: {one.kept}", map(_described, one.records))
        ]
    left_out = {record.path for one in odd for record in one.records}
    kept = [record for record in records if record.path not in left_out]
    return kept, [
        each
        for one in odd
        for each in remark(one.kind, f"images {one.what} and were left out", map(_described, one.records))
    ]


def _sizes(records: Sequence[ImageRecord]) -> _Odd | None:
    most, odd = _minority([(record.width, record.height) for record in records], records)
    if most is None:
        return None
    return _Odd(
        "odd_size",
        "have another size than the others",
        f"{most[0]} × {most[1]} pixels, as {len(records) - len(odd)} images",
        "the detector reads files of any size and takes no camera's frames",
        odd,
    )


def _colours(records: Sequence[ImageRecord], channels: str) -> _Odd | None:
    if channels != "auto":
        return None
    grey, colour = (tuple(r for r in records if r.shows_colour is shows) for shows in (False, True))
    if colour and len(grey) >= _MOST * len(records):
        return _Odd(
            "odd_colour",
            "are in colour, the others grey",
            f"grey images, as {len(grey)} are",
            "the detector takes colour frames and refuses those of a mono camera",
            colour,
        )
    # A colour camera may see a grey part; a file without colour is of another camera.
    mono = tuple(record for record in grey if record.is_grey)
    if mono and len(colour) >= _MOST * len(records):
        return _Odd(
            "odd_colour",
            "are grey, the others in colour",
            f"colour images, as {len(colour)} are",
            "they are trained on as colour images without colour",
            mono,
        )
    return None


def _depths(records: Sequence[ImageRecord]) -> _Odd | None:
    known = [record for record in records if record.is_deep is not None]
    most, odd = _minority([record.is_deep for record in known], known)
    if most is None:
        return None
    return _Odd(
        "odd_depth",
        f"have {8 if most else 16} bits, the others {16 if most else 8}",
        f"{16 if most else 8} bits, as {len(known) - len(odd)} images",
        "their grey values are brought to 8 bits by another rule than those of the others",
        odd,
    )


def _minority(values: Sequence[T], records: Sequence[ImageRecord]) -> tuple[T | None, tuple[ImageRecord, ...]]:
    """Return the value that most images share, and those that have another; None where there is no such value."""
    if not values:
        return None, ()
    most, count = Counter(values).most_common(1)[0]
    if count == len(values) or count < _MOST * len(values):
        return None, ()
    return most, tuple(record for record, value in zip(records, values, strict=True) if value != most)


def _described(record: ImageRecord) -> str:
    colour = "colour" if record.shows_colour else "grey"
    return f"'{record.path}' ({record.width} × {record.height}, {colour}, {16 if record.is_deep else 8} bits)"
