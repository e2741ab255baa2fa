"""Every method on real parts, as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import table

_FIGURES = ("image_auroc", "pixel_auroc", "pro", "false_reject_rate", "detection_rate")
_HEADINGS = (
    "method", "image AUROC", "pixel AUROC", "PRO", "false rejects", "detected", "good images", "epochs",
    "ELPV image AUROC",
)  # fmt: skip
_TILES, _CELLS = "magnetic_tile", "elpv_mono"


def accuracy_table(record: dict[str, Any]) -> list[str]:
    """Return both data sets side by side, the best image AUROC first."""
    settings = record["settings"]
    rows = {(row["data"], row["name"]): row for row in record["found"]["rows"]}
    tiles = sorted((row for row in rows.values() if row["data"] == _TILES), key=lambda row: -row["image_auroc"])
    cells = []
    for row in tiles:
        elpv, images = rows.get((_CELLS, row["name"])), row["images"]
        cells.append(
            [
                f"`{row['name']}`",
                *(_percent(row[figure]) for figure in _FIGURES),
                f"{images['train']} + {images['held_out']}",
                str(row["settings"]["recipe"]["epochs"]),
                _percent(elpv["image_auroc"] if elpv else None),
            ]
        )
    images = tiles[0]["images"]
    return [
        *table(_HEADINGS, cells, right=range(1, 9)),
        "",
        "Percent. Magnetic Tile Defects: good images trained on + held out (no tile on both sides), "
        f"{images['test_good']} good and {images['test_defective']} defective test images. The teacher is "
        f"{settings['teacher']} with the same weights for all. False rejects and detections at the threshold for "
        f"{100 * settings['false_reject_rate']:g} % false rejects from the held-out images.",
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
