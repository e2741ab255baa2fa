"""A shard's result as a Parquet file: its rows, and as metadata what they were scored with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kdx import __version__
from kdx.archive.score_records import ScoreRow, ScoreWork, ShardResult
from kdx.decision.label_files import coco_document
from kdx.decision.verdict import Decision
from kdx.errors import OutputError
from kdx.imaging.value_range import union
from kdx.remarks import FIRST
from kdx.storage.files import write_atomic, write_parts
from kdx.storage.json_output import encode_json
from kdx.storage.json_records import now
from kdx.storage.spreadsheet import CSV_STYLES, SKIPPED, TABLE, CsvStyle, csv_lines, path_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHARDS, REGIONS = "shards", "regions"
_RESULT = b"shard"
# Values that repeat; paths and hashes do not, and a dictionary of them only costs.
# The columns of the table of all scores, in the order of kdx predict's.
_TABLE_COLUMNS = (
    *("image", "verdict", "score", "threshold", "margin", "relative_score", "p_value", "held_out_images", "backend"),
    *("precision", "threshold_by_hand", "review_threshold", "reason", "frame_faults", "error", "sha256"),
    "milliseconds",
)
_DICTIONARY = ["decision", "error", "frame_faults", "reason", "threshold"]


def shard_file(output: Path, number: int) -> Path:
    """Return the path of a shard's result."""
    return output / SHARDS / f"{number:06d}.parquet"


def regions_file(output: Path, number: int) -> Path:
    """Return the path of the regions of a shard's images, in COCO's format."""
    return output / REGIONS / f"{number:06d}.coco.json"


def count(shard: int, rows: Sequence[ScoreRow], *, seconds: float, worker: str) -> ShardResult:
    """Return the result of a shard, counted from the rows of its images."""
    decisions = Counter(row.decision for row in rows)
    narrow = [(row.path, row.levels) for row in rows if row.levels is not None and row.levels.is_narrow]
    colour = [row.path for row in rows if row.loses_colour]
    return ShardResult(
        shard=shard,
        frames=len(rows),
        decisions={each.value: decisions[each.value] for each in Decision},
        bad=sum(bool(row.error) for row in rows),
        seconds=round(seconds, 3),
        worker=worker,
        narrow=len(narrow),
        narrow_levels=union(levels for _, levels in narrow),
        narrow_example=narrow[0][0] if narrow else "",
        colour=tuple(colour[:FIRST]),
        colour_count=len(colour),
    )


def write_shard(work: ScoreWork, result: ShardResult, rows: Sequence[ScoreRow]) -> None:
    """Write a shard's file, in one step; before it, the regions of its images.

    Raises:
        OutputError: It cannot be written: the disk is full, or the folder is gone.
    """
    import pyarrow
    from pyarrow import parquet

    metadata = {
        "kdx_version": __version__,
        "bundle": work.bundle,
        "bundle_sha256": work.bundle_sha256,
        "backend": work.backend,
        "precision": work.precision,
        "archive": work.archive,
        "created": now(),
        _RESULT.decode(): msgspec.json.encode(result).decode(),
    }
    schema = _schema(metadata)
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    buffer = pyarrow.BufferOutputStream()
    table = pyarrow.table(columns, schema)
    parquet.write_table(table, buffer, compression="zstd", use_dictionary=_DICTIONARY)
    path = shard_file(Path(work.output), result.shard)
    try:
        if work.coco:
            _write_regions(work, result.shard, rows)
        write_atomic(path, buffer.getvalue().to_pybytes())
    except OSError as error:
        raise OutputError(
            f"'{path}' cannot be written: {error.strerror or error}",
            fix="free some space or fix the folder; run the same command again to continue",
        ) from error


def _write_regions(work: ScoreWork, shard: int, rows: Sequence[ScoreRow]) -> None:
    file = regions_file(Path(work.output), shard)
    file.parent.mkdir(exist_ok=True)
    labelled = [row.labelled for row in rows if row.labelled is not None]
    document = coco_document(labelled, f"regions that kdx found in images of {work.archive}")
    write_atomic(file, encode_json(document) + b"\n")


def read_result(path: Path) -> ShardResult:
    """Read the result from a finished shard's file, without its rows.

    Raises:
        OutputError: It is not such a file.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        metadata = parquet.read_schema(path).metadata or {}
        return msgspec.json.decode(metadata[_RESULT], type=ShardResult)
    except (OSError, pyarrow.ArrowException, KeyError, msgspec.MsgspecError) as error:
        raise _damaged(path, error) from error


def read_scores(path: Path) -> NDArray[np.float64]:
    """Read the scores of a shard's images that were scored."""
    import pyarrow
    from pyarrow import parquet

    try:
        column = parquet.read_table(path, columns=["score"]).column("score")
    except (OSError, pyarrow.ArrowException) as error:
        raise _damaged(path, error) from error
    scores: NDArray[np.float64] = column.drop_null().to_numpy()
    return scores


def read_bad(path: Path, most: int) -> list[dict[str, str]]:
    """Read the paths of a shard's first few images that were skipped, and why."""
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["path", "error"]).to_pylist()
    return [row for row in table if row["error"]][:most]


def write_table(output: Path, shards: int, style: CsvStyle, of_all: Mapping[str, object]) -> None:
    """Write the rows of all shards as one table for spreadsheets, in one step, a shard at a time.

    Args:
        output: The output folder.
        shards: The number of shards.
        style: The style of the table.
        of_all: The columns that have one value for all images, such as the backend.

    Raises:
        OutputError: A shard is damaged.
        OSError: The table cannot be written.
    """
    write_parts(output / TABLE, csv_lines(_table_rows(output, shards, of_all), _TABLE_COLUMNS, style))


def style_of_table(output: Path) -> CsvStyle | None:
    """Return the style of the table that :func:`write_table` wrote; None for no table of its own.

    Raises:
        OSError: The table cannot be read.
    """
    path = output / TABLE
    if not path.is_file():
        return None
    with path.open("rb") as file:
        first = file.readline()
    return next((style for style in CSV_STYLES if first == next(csv_lines([], _TABLE_COLUMNS, style))), None)


def _table_rows(output: Path, shards: int, of_all: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    for path in (shard_file(output, number) for number in range(shards)):
        try:
            rows = parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise _damaged(path, error) from error
        for row in rows:
            is_scored = row["decision"] is not None
            yield {
                **row,
                **(of_all if is_scored else {}),
                "image": path_text(row["path"]),
                "verdict": row["decision"] if is_scored else SKIPPED,
                "frame_faults": row["frame_faults"].replace(",", ", "),
                "milliseconds": round(row["milliseconds"], 3),
            }


def _damaged(path: Path, error: Exception) -> OutputError:
    return OutputError(
        f"'{path}' is not a shard of kdx score, or it is damaged: {error}",
        fix="remove this file and call again: the shard is scored again",
    )


def _schema(metadata: dict[str, str]) -> Any:
    import pyarrow

    types = {
        "path": pyarrow.string(),
        "score": pyarrow.float64(),
        "decision": pyarrow.string(),
        "margin": pyarrow.float64(),
        "threshold": pyarrow.float64(),
        "frame_faults": pyarrow.string(),
        "reason": pyarrow.string(),
        "error": pyarrow.string(),
        "sha256": pyarrow.string(),
        "milliseconds": pyarrow.float32(),
        "relative_score": pyarrow.float64(),
        "p_value": pyarrow.float64(),
    }
    required = {"path", "frame_faults", "reason", "error", "milliseconds"}
    fields = [pyarrow.field(name, kind, nullable=name not in required) for name, kind in types.items()]
    return pyarrow.schema(fields, metadata=metadata)
