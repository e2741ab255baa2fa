"""Large frames in tiles, as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import runtime_name, table


def tiling_table(record: dict[str, Any]) -> list[str]:
    """Return what a large frame costs in tiles, and how far tiles change the map."""
    rows = record["found"]["rows"]
    batches = sorted({row["tile_batch"] for row in rows if row["tile_batch"]})
    pairs = list(dict.fromkeys((row["backend"], row["precision"]) for row in rows if row["tile_batch"]))
    by_batch = {(row["backend"], row["precision"], row["tile_batch"]): row for row in rows}
    cells = [
        [runtime_name(*pair), *(_cost(by_batch.get((*pair, batch))) for batch in (*batches, None))] for pair in pairs
    ]
    return [
        *table(("tiles at once", *map(str, batches), "no tiles"), cells, right=range(1, len(batches) + 2)),
        "",
        _below(record),
    ]


def _cost(row: dict[str, Any] | None) -> str:
    return "–" if row is None or row.get("error") else f"{row['p50_ms'] / 1e3:.2f} s, {row['peak_memory_mb']:,} MB"


def _below(record: dict[str, Any]) -> str:
    agreed, sweep, plan = (record["found"][part] for part in ("agreement", "sweep", "plan"))
    settings, machine = record["settings"], record["machine"]
    frame, small = (" × ".join(map(str, size)) for size in (settings["frame"], agreed["frame"]))
    return (
        f"Median time, and peak memory of the process, for a frame of {frame} in {len(plan['rows'])} × "
        f"{len(plan['columns'])} tiles of {settings['tile']} that overlap by {plan['overlap']} pixels and more; STPM, "
        f"{settings['backbone']} at {settings['taps'].replace(',', ' and ')}, {machine['threads']} threads of "
        f"{machine['cpu']}. In frames of {small} the map differs from that of the whole frame by at most "
        f"{100 * agreed['map_max']:.2f} % of its range, the score by {100 * agreed['score_max']:.2f} %; "
        f"{sweep['defects']} real defects, pasted at {sweep['places']} places from the middle of a tile to the middle "
        f"of the next, score within {100 * sweep['score_max']:.2f} % of the same defect in the middle of one."
    )
