"""Odd images: the few that differ from all others and would change what a detector accepts.

A detector accepts what its training images have in common. One image of another size among a
hundred makes a detector of files of any size, which refuses the camera's frames; one colour image
among grey ones makes it refuse mono frames. If at least two thirds of the images agree in size,
colour or depth, the others are odd. Otherwise the images are mixed and all of them are used.

An image whose three channels are equal everywhere counts as grey.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from kd_train.data.image_records import ImageRecord
from kdx.errors import DataError
from kdx.remarks import Remark, remark, shorten
from kdx.text import agreeing

OddImages = Literal["stop", "skip", "keep"]
_MOST = 2 / 3
T = TypeVar("T")


@dataclass(frozen=True)
class _Odd:
    """Images that are odd in one respect.

    Attributes:
        kind: The kind of the remark on them.
        what: What distinguishes them, as a predicate in both forms.
        expected: What the other images have in common.
        kept: The effect of training on them.
        records: The images.
    """

    kind: str
    what: str
    expected: str
    kept: str
    records: tuple[ImageRecord, ...]


def handle_odd_images(
    records: Sequence[ImageRecord], choice: OddImages, *, channels: str = "auto", tiles: bool = False
) -> tuple[list[ImageRecord], list[Remark]]:
    """Return the images to train on, and remarks on the odd ones.

    Args:
        records: All images.
        choice: ``stop`` to raise an error, ``skip`` to leave the odd images out, ``keep`` to use
            them, whatever the effect on the detector.
        channels: The number of channels that the user chose, in which case colour is not compared;
            or ``auto``.
        tiles: Whether the images are frames from which tiles are cut.

    Raises:
        DataError: There are odd images, and ``choice`` is ``stop``.
    """
    found = _sizes(records, tiles=tiles), _colours(records, channels), _depths(records)
    odd = [one for one in found if one is not None]
    if odd and choice == "stop":
        first = odd[0]
        raise DataError(
            f"{len(first.records)} of {len(records)} images {agreeing(len(first.records), first.what)}",
            expected=first.expected,
            received=shorten(_described(record) for record in first.records),
            fix="remove or repair them, or leave them out: `odd_images='skip'`, or use them: "
            f"`odd_images='keep'` ({agreeing(len(first.records), first.kept)})",
        )
    if choice == "keep":
        return list(records), [
            each
            for one in odd
            for each in remark(
                one.kind,
                f"[image was|images were] used although [it|they] {one.what}: {one.kept}",
                map(_described, one.records),
            )
        ]
    left_out = {record.path for one in odd for record in one.records}
    kept = [record for record in records if record.path not in left_out]
    return kept, [
        each
        for one in odd
        for each in remark(
            one.kind, f"[image was|images were] left out because [it|they] {one.what}", map(_described, one.records)
        )
    ]


def _sizes(records: Sequence[ImageRecord], *, tiles: bool) -> _Odd | None:
    most, odd = _minority([(record.width, record.height) for record in records], records)
    if most is None:
        return None
    return _Odd(
        "odd_size",
        "[has|have] another size than the others",
        f"{most[0]} × {most[1]} pixels, as {len(records) - len(odd)} images",
        "the size of the camera's frames is then not known, and exports need it: `frame`"
        if tiles
        else "the detector then reads files of any size and takes no camera's frames",
        odd,
    )


def _colours(records: Sequence[ImageRecord], channels: str) -> _Odd | None:
    if channels != "auto":
        return None
    grey, colour = (tuple(r for r in records if r.shows_colour is shows) for shows in (False, True))
    if colour and len(grey) >= _MOST * len(records):
        return _Odd(
            "odd_colour",
            "[is|are] in colour, unlike the others",
            f"grey images, as {len(grey)} are",
            "the detector then takes colour frames and refuses those of a mono camera",
            colour,
        )
    # A colour camera may see a grey part, but a file with one channel comes from another camera.
    mono = tuple(record for record in grey if record.is_grey)
    if mono and len(colour) >= _MOST * len(records):
        return _Odd(
            "odd_colour",
            "[is|are] grey, unlike the others",
            f"colour images, as {len(colour)} are",
            "[it is used as a colour image|they are used as colour images] whose channels are equal",
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
        f"[has|have] {8 if most else 16} bits, unlike the others",
        f"{16 if most else 8} bits, as {len(known) - len(odd)} images",
        "their values are converted to 8 bits by another rule than those of the others",
        odd,
    )


def _minority(values: Sequence[T], records: Sequence[ImageRecord]) -> tuple[T | None, tuple[ImageRecord, ...]]:
    """Return the value that most images share, or None, and the images that have another."""
    if not values:
        return None, ()
    most, count = Counter(values).most_common(1)[0]
    if count == len(values) or count < _MOST * len(values):
        return None, ()
    return most, tuple(record for record, value in zip(records, values, strict=True) if value != most)


def _described(record: ImageRecord) -> str:
    colour = "colour" if record.shows_colour else "grey"
    return f"'{record.path}' ({record.width} × {record.height}, {colour}, {16 if record.is_deep else 8} bits)"
