"""Stations whose detector is a stand-in: a file's first word is its verdict."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdx.decision.verdict import Decision, Reason, Verdict
from kdx.errors import DataError, ImageError
from kdx.monitoring.judged_by import JudgedBy
from kdx.station.database import FILE
from kdx.station.judged_files import Identity
from kdx.station.judging import JudgedImage
from kdx.station.ledger import Ledger
from kdx.station.names import NamePattern
from kdx.station.options import WatchOptions
from kdx.station.record import NotJudged, Shown, judged, not_judged
from kdx.station.station import Record, Station
from kdx.storage.files import sha256_bytes
from kdx.storage.renames import rename_new

BY = JudgedBy(bundle="tile.kdx", bundle_sha256="b" * 64, graph_sha256="c" * 64, backend="here", precision="fp32")


def stand_in(folder: Path, pattern: NamePattern, *, heat_maps: bool) -> Callable[[str, Identity], JudgedImage | None]:
    """Return what takes the place of a detector: a file's first word is its verdict."""

    def judge(name: str, identity: Identity) -> JudgedImage | None:
        try:
            content = (folder / name).read_bytes()
        except FileNotFoundError:
            return None
        part = pattern.read(name)
        shown = Shown(
            image=name, image_sha256=sha256_bytes(content), part_id=part.part, product=part.product, view=part.view
        )
        try:
            pattern.require_view(name)
        except DataError as error:
            return JudgedImage(not_judged(shown, error, BY, NotJudged.NAME))
        word = content.split()[0].decode()
        if word == "unreadable":
            return JudgedImage(not_judged(shown, ImageError(f"'{name}' is not an image"), BY))
        reason = Reason.FRAME if word == "undecided" else None
        verdict = Verdict(Decision(word), 0.25, 0.5, np.zeros((2, 2), np.float32), reason=reason)
        return JudgedImage(judged(shown, verdict, BY), b"a picture" if heat_maps else None)

    return judge


class Box:
    """A receiver whose messages stay in the outbox."""

    receiver = "box"

    def expect(self, message: int, since: float) -> None:
        pass

    def notice(self) -> None:
        pass


class NoNotices:
    """A stand-in for watchdog's observer: the folder is only listed."""

    emitters = ()

    def stop(self) -> None:
        pass

    def join(self) -> None:
        pass


def options_for(root: Path, **given: Any) -> WatchOptions:
    """Return options of a station that watches ``root/in``, for files that are complete at once."""
    return WatchOptions(folder=root / "in", out=root / "out", bundles={}, **{"settle": 0.0, "once": True, **given})


def run(
    options: WatchOptions,
    say: Callable[[str], None] = lambda _: None,
    bundles: Any = (),
    post: Sequence[Any] = (),
    **given: Any,
) -> Iterator[Record]:
    """Let a station judge what is there, and yield its records."""
    options.out.mkdir(exist_ok=True)
    ledger = Ledger(options.out / FILE, create=True)
    try:
        judge = stand_in(options.folder, options.pattern, heat_maps=options.heat_maps)
        yield from Station(options, ledger, bundles, judge, post or [Box()], say, **given).records()  # type: ignore[arg-type]
    finally:
        ledger.close()


def across_devices(source: Path, target: Path) -> None:
    """Rename as if the watched folder lay on another device."""
    if source.parent.name == "in":
        raise OSError(errno.EXDEV, "Invalid cross-device link")
    rename_new(source, target)


def drop(root: Path, **contents: str) -> None:
    """Rename files into the watched folder, in order: ``drop(root, a="good")`` is ``a.png``."""
    (root / "in").mkdir(exist_ok=True)
    for name, content in contents.items():
        part = root / f"{name}.part"
        part.write_text(f"{content} {name}", encoding="utf-8", errors="surrogateescape")
        part.rename(root / "in" / f"{name}.png")


def lines(out: Path) -> list[dict[str, Any]]:
    """Return the lines of verdicts that a station wrote."""
    texts = [file.read_text(encoding="utf-8") for file in sorted((out / "verdicts").glob("*.jsonl"))]
    found = [json.loads(line) for text in texts for line in text.splitlines()]
    return [line for line in found if "verdict" in line]


def sorted_files(out: Path) -> list[str]:
    """Return the files that a station sorted and drew, relative to its output folder."""
    return sorted(
        path.relative_to(out).as_posix() for path in out.rglob("*.png") if path.is_file() and path.name[0] != "."
    )


def outbox(out: Path) -> list[dict[str, Any]]:
    """Return the messages that wait for the box."""
    ledger = Ledger(out / FILE)
    try:
        return [json.loads(line) for _, line in ledger.outbox(Box.receiver, 10_000)]
    finally:
        ledger.close()
