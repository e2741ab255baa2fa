"""The figures of a reproduction as the text of tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kd_train.reproduction.paper_comparison import PaperComparison, PaperRow, PrintedTable, TableCell
from kd_train.reproduction.text_tables import figures_of, quoted_places, systems_of

NONE = TableCell(None, "", (), None, None, None)
TWO_SEEDS = TableCell(97.4, "", (96.0, 98.0), 97.0, 1.41, -0.4)
QUOTED = TableCell(95.53, "dskd, table 1", (96.0,), 96.0, None, 0.47)
TILE = PaperRow("", "tile", "tile", False, {"image_auroc": QUOTED, "pixel_auroc": TWO_SEEDS, "pro": NONE})
COMPARISON = PaperComparison(
    "stpm", "stpm", "a paper", "mvtec", False, (), (), (), {}, 2, (TILE, replace(TILE, name="mean", is_mean=True)), ()
)


def test_metrics_without_figures_have_no_column():
    table = figures_of(COMPARISON)
    assert table.headings == ("image AUROC", "paper", "diff", "pixel AUROC", "paper", "diff")
    assert "2 seeds" in table.title
    assert "one seed" in figures_of(replace(COMPARISON, seeds=1)).title


def test_figures_have_the_decimals_that_the_paper_prints():
    row, mean = figures_of(COMPARISON).rows
    assert row.texts == ("96.00", "95.53*", "+0.47", "97.0 ± 1.4", "97.4", "-0.4")
    assert (row.is_mean, mean.is_mean) == (False, True)
    assert quoted_places(COMPARISON) == ["dskd, table 1"]


@pytest.mark.parametrize(("second", "name", "begins"), [("", "tile", False), ("[2, 3]", "[2, 3]: tile", True)])
def test_variants_are_named_where_there_are_several(second: str, name: str, begins: bool):
    table = figures_of(replace(COMPARISON, rows=(TILE, replace(TILE, variant=second))))
    assert (table.rows[1].name, table.rows[1].begins_section) == (name, begins)


def test_the_papers_table_has_our_figures_last():
    rows = {"tile": (87.4, 97.4), "metal_nut": (None, 96.0)}
    printed = PrintedTable("stpm, table 2", "pixels", "pixel_auroc", ("SPADE", "STPM"), rows, ())
    table = systems_of(printed, COMPARISON.rows)
    assert table.headings == ("SPADE", "STPM", "kdx")
    assert [(row.name, *row.texts) for row in table.rows] == [
        ("tile", "87.4", "97.4", "97.0"),
        ("metal nut", "–", "96.0", "–"),
    ]
    assert systems_of(printed, (TILE, replace(TILE, variant="other"))).rows[0].texts[-1] == "–"
