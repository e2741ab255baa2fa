"""Which image is in which shard: written once, so that a resumed call scores the same shards.

Each listing of the archive is a folder with a Parquet file of one column, ``path``, as bytes, with
one row group for each shard: any process that sees the file reads a shard's images without the
rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from kdx.archive.score_records import Listing
from kdx.errors import OutputError
from kdx.storage.files import new_folder

FILES = "files"
_NAME = "paths.parquet"


@dataclass(frozen=True)
class Shard:
    """A shard: its number, and its images' paths relative to the archive."""

    number: int
    paths: tuple[str, ...]


class ShardPlan:
    """Every shard of a run.

    Args:
        output: The run's folder.
        listed: The run's listings.
    """

    def __init__(self, output: Path, listed: Sequence[Listing]) -> None:
        self._folder = output / FILES
        self._listed = listed
        self._open: dict[str, Any] = {}

    @property
    def shards(self) -> int:
        """Number of shards."""
        return sum(one.shards for one in self._listed)

    @property
    def frames(self) -> int:
        """Number of images in all shards."""
        return sum(one.frames for one in self._listed)

    def shard(self, number: int) -> Shard:
        """Read one shard's paths.

        Raises:
            OutputError: The list is missing or damaged.
        """
        one = next(each for each in self._listed if number < each.first_shard + each.shards)
        table = self._file(one).read_row_group(number - one.first_shard)
        return Shard(number, tuple(_paths(table)))

    def frames_of(self, number: int) -> int:
        """Return the number of images in a shard, without reading them."""
        one = next(each for each in self._listed if number < each.first_shard + each.shards)
        count: int = self._file(one).metadata.row_group(number - one.first_shard).num_rows
        return count

    def paths(self) -> list[Iterator[str]]:
        """Return each listing's paths, in its order; they are read a shard at a time."""
        return [self._paths_of(one) for one in self._listed]

    def _paths_of(self, one: Listing) -> Iterator[str]:
        file = self._file(one)
        for index in range(one.shards):
            yield from _paths(file.read_row_group(index))

    def _file(self, one: Listing) -> Any:
        """Open a listing's file; its metadata are read once."""
        import pyarrow
        from pyarrow import parquet

        if one.name not in self._open:
            path = self._folder / one.name / _NAME
            try:
                self._open[one.name] = parquet.ParquetFile(path)
            except (OSError, pyarrow.ArrowException) as error:
                raise OutputError(
                    f"'{path}' cannot be read: {error}", fix="start again with `force=True`, or with another `out`"
                ) from error
        return self._open[one.name]


def write_listing(output: Path, name: str, found: Iterable[str], shard_size: int) -> tuple[int, int]:
    """Write a listing, a shard at a time; it appears whole or not at all.

    Returns:
        Number of shards and of images; without images, nothing is written.
    """
    import pyarrow
    from pyarrow import parquet

    remaining = iter(found)
    batch = list(islice(remaining, shard_size))
    if not batch:
        return 0, 0
    schema = pyarrow.schema([pyarrow.field("path", pyarrow.binary(), nullable=False)])
    shards = frames = 0
    with new_folder(output / FILES / name, force=True) as folder:
        # Paths of one folder begin alike.
        encoding = {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY", "compression": "zstd"}
        with parquet.ParquetWriter(folder / _NAME, schema, **encoding) as writer:
            while batch:
                writer.write_table(pyarrow.table({"path": [os.fsencode(path) for path in batch]}, schema))
                shards, frames = shards + 1, frames + len(batch)
                batch = list(islice(remaining, shard_size))
    return shards, frames


def _paths(table: Any) -> Iterator[str]:
    return (os.fsdecode(name) for name in table.column("path").to_pylist())
