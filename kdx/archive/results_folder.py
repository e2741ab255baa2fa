"""The output folder of ``kdx score``: settings, lists of images, and finished shards."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kdx import __version__
from kdx.archive.listing import added
from kdx.archive.plan import FILES, ShardPlan, write_listing
from kdx.archive.ray_engine import TRIES
from kdx.archive.score_records import FILES_SCHEMA, SCHEMA, Index, Listing, Settings
from kdx.archive.shard_table import REGIONS, SHARDS, style_of_table
from kdx.decision.map_files import MAPS, MASKS, MapFormat
from kdx.errors import OutputError
from kdx.folders.image_search import LeftOut, walk_parts
from kdx.storage.files import remove_leftovers, write_atomic
from kdx.storage.json_records import encode_record, now, read_record
from kdx.storage.locks import locked_output
from kdx.storage.spreadsheet import TABLE

_INDEX = "score.json"
SUMMARY = "summary.json"
SHARD_SIZE = 1000


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a call asked for; None and ``auto`` keep what the output folder was started with.

    Attributes:
        archive: The folder of images, absolute.
        bundle: The bundle's folder, absolute.
        bundle_sha256: Hash of its ``bundle.json``.
        backend: A backend's name.
        precision: The precision of the graph.
        shard_size: Images in a shard.
        maps: The format of maps.
        masks: True for masks; None for those of the folder, if it has any.
        coco: True for regions in COCO's format; None as for masks.
        min_area: The smallest area of a region.
    """

    archive: str
    bundle: str
    bundle_sha256: str
    backend: str = "auto"
    precision: str | None = None
    shard_size: int | None = None
    maps: MapFormat | None = None
    masks: bool | None = None
    coco: bool | None = None
    min_area: float | None = None


class ScoreFolder:
    """The output folder of a run.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.shards = self.path / SHARDS
        self.summary = self.path / SUMMARY

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Create the folder, or check that it is of this command, and keep other calls out of it.

        Raises:
            OutputError: It holds something else, or another call is working in it.
        """
        self._require_own()
        self.shards.mkdir(parents=True, exist_ok=True)
        with locked_output(self.path, "kdx score", self.path):
            self._remove_left()
            yield

    def begun(self) -> Index | None:
        """Return what the folder was started with; None if it is new."""
        path = self.path / _INDEX
        if not path.is_file():
            return None
        return read_record(path, Index, error=OutputError, fix="start again with `force=True`", supported=FILES_SCHEMA)

    def begin(self, settings: Settings) -> Index:
        """Write what decides the scores of this folder."""
        schema = FILES_SCHEMA if settings.maps or settings.needs_threshold else SCHEMA
        index = Index(schema=schema, kdx_version=__version__, settings=settings)
        write_atomic(self.path / _INDEX, encode_record(index))
        return index

    def list_added(self, index: Index) -> Index:
        """List the images of the archive that no listing holds, and keep them as new shards."""
        left_out = LeftOut()
        name = f"{len(index.listed):03d}"
        first = sum(one.shards for one in index.listed)
        shards, frames = write_listing(self.path, name, self._added(index, left_out), index.settings.shard_size)
        if not frames:
            return index
        listed = Listing(
            name=name,
            first_shard=first,
            shards=shards,
            frames=frames,
            linked_folders=left_out.count("linked_folder"),
            created=now(),
        )
        index = msgspec.structs.replace(index, listed=[*index.listed, listed])
        write_atomic(self.path / _INDEX, encode_record(index))
        return index

    def count_added(self, index: Index, left_out: LeftOut) -> int:
        """Count the images of the archive that no listing holds, and what is left out."""
        return sum(1 for _ in self._added(index, left_out))

    def done(self) -> list[int]:
        """Return the numbers of the finished shards."""
        names = (entry.name for entry in os.scandir(self.shards) if entry.name.endswith(".parquet"))
        return sorted(int(stem) for name in names if (stem := name.removesuffix(".parquet")).isdecimal())

    def _require_own(self) -> None:
        if (self.path / _INDEX).is_file() or not self.path.exists():
            return
        found = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else ["a file"]
        # A call that was killed before it wrote anything leaves one empty folder.
        if found and (found != [SHARDS] or any(self.shards.iterdir())):
            raise OutputError(f"'{self.path}' exists and is not of kdx score", fix="choose another `out`")

    def _added(self, index: Index, left_out: LeftOut) -> Iterator[str]:
        return added(walk_parts(Path(index.settings.archive), left_out), ShardPlan(self.path, index.listed).paths())

    def discard(self) -> None:
        """Remove what this command made; other files of the user stay.

        The record goes last: it says whose folder this is, should the call be killed before.
        """
        settings = None
        with contextlib.suppress(OutputError):  # what a damaged record does not name stays
            begun = self.begun()
            settings = begun.settings if begun else None
        for path in self.shards.iterdir():
            path.unlink()
        made = {} if settings is None else {MAPS: settings.maps, MASKS: settings.masks, REGIONS: settings.coco}
        for name in (FILES, TRIES, *(name for name, is_made in made.items() if is_made)):
            shutil.rmtree(self.path / name, ignore_errors=True)
        self.summary.unlink(missing_ok=True)
        if style_of_table(self.path) is not None:
            (self.path / TABLE).unlink()
        (self.path / _INDEX).unlink(missing_ok=True)

    def _remove_left(self) -> None:
        """Remove half-written files of killed processes, ``.NUMBER.parquet.*.part``."""
        for entry in list(os.scandir(self.shards)):
            if entry.name.startswith("."):
                number, _, _ = entry.name[1:].partition(".")
                remove_leftovers(self.shards / f"{number}.parquet")


def require_same(path: Path, settings: Settings, asked: Asked) -> None:
    """Raise ``OutputError`` if a call asks for other scores than an output folder holds."""
    given = {name: value for name, value in msgspec.structs.asdict(asked).items() if value not in (None, "auto")}
    given.pop("bundle")  # a copy elsewhere is the same bundle
    began = msgspec.structs.asdict(settings)
    changed = [name for name, value in given.items() if value != began[name]]
    if changed:
        raise OutputError(
            f"'{path}' holds scores of another {' and '.join(_WORDS[name] for name in changed)}",
            expected=", ".join(f"{_WORDS[name]} {began[name]}" for name in changed),
            received=", ".join(f"{_WORDS[name]} {given[name]}" for name in changed),
            fix="use the options of the first call, choose another `out`, or start again with `force=True`",
        )


_WORDS = {
    "archive": "archive",
    "bundle_sha256": "bundle",
    "backend": "backend",
    "precision": "precision",
    "shard_size": "shard size",
    "maps": "format of maps",
    "masks": "choice of masks",
    "coco": "choice of regions",
    "min_area": "smallest area of regions",
}
