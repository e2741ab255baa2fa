"""The table of verdicts that ``kdx predict`` and ``kdx demo`` print."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from kdx.cli.output import make_table, out
from kdx.text import number_of, one_line

_SAID_OF_REASONS = {
    "no_threshold": "no threshold",
    "not_finite": "map or score is not finite",
    "below_range": "below any possible score",
    "score_mismatch": "score is not the map's maximum",
}


def said_of_p_values(images: int) -> str:
    """Say what the p-values of verdicts stand on."""
    if not images:
        return "no p-values: the calibration is of an older kdx, which kept no scores; calibrate again"
    return (
        f"p: how unusual the score is for a good part, from {number_of(images, 'held-out good [image|images]')}; "
        f"the least that they can show is {1 / (1 + images):.2g}"
    )


def show_verdicts(records: list[dict[str, Any]]) -> None:
    """Print a table of verdicts, and what decided."""
    colours = {"good": "green", "review": "yellow", "defective": "bold red", "undecided": "yellow"}
    bundles = ("bundle",) if "bundle" in records[0] else ()
    table = make_table("", "verdict", *bundles, "image", "score", "threshold", "margin", "p", left=("bundle", "image"))
    for r in records:
        threshold = "–" if r["threshold"] is None else f"{r['threshold']:.4g}"
        margin = "–" if r["margin"] is None else f"{r['margin']:+.1%}"
        p = "–" if r.get("p_value") is None else f"{r['p_value']:.3g}"
        faults = f" ({', '.join(r['frame_faults'])} frame)" if "frame_faults" in r else ""
        if r.get("reason") in _SAID_OF_REASONS:
            faults = f" ({_SAID_OF_REASONS[r['reason']]}){faults}"
        verdict = f"[{colours[r['verdict']]}]{r['verdict']}{faults}[/]"
        texts = (escape(one_line(r[column])) for column in (*bundles, "image"))
        table.add_row(verdict, *texts, f"{r['score']:.4g}", threshold, margin, p)
    out.print(table)
    for images in dict.fromkeys(r.get("held_out_images", 0) for r in records if r["threshold"] is not None):
        out.print(said_of_p_values(images))
    for reason in dict.fromkeys(r["threshold_by_hand"] for r in records if "threshold_by_hand" in r):
        out.print(f"threshold set by hand: {escape(reason)}")
    decided = dict.fromkeys((*(r[each] for each in bundles), r["precision"].upper(), r["backend"]) for r in records)
    for *bundle, precision, backend in decided:
        out.print(f"decided in {precision} by {backend}{''.join(f' ({escape(name)})' for name in bundle)}")
