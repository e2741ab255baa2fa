"""What ``kdx score`` prints of an archive's scores and of the call."""

from __future__ import annotations

from kdx.archive.score_records import Summary
from kdx.text import Line, number, number_of


def describe_summary(summary: Summary) -> list[Line]:
    """Return the number of files, what the scores are, and what this call did."""
    run = summary.this_run
    lines = [f"{number_of(summary.shards, 'Parquet [file|files]')}, and summary.json beside it"]
    if summary.quantiles:
        scores = ", ".join(f"{100 * float(share):g} % {value:.4g}" for share, value in summary.quantiles.items())
        by_hand = "" if summary.threshold_by_hand is None else f", set by hand: {summary.threshold_by_hand}"
        lines.append(f"scores: {scores}; threshold {number(summary.threshold)}{by_hand}")
    if run.frames:
        lines.append(
            f"{number_of(run.frames, '[image|images]')} in {run.seconds:.1f} s: {number(run.frames_per_second)} a "
            f"second; workers: {run.workers}, threads of each: {run.threads_per_worker}, "
            f"{number(run.frames_per_second_per_worker)} a second while at work"
        )
    else:
        lines.append("nothing was left to score")
    if run.deaths:
        lines.append(f"processes that died and were replaced: {run.deaths}")
    if summary.added_since:
        added = number_of(summary.added_since, "[image was|images were]")
        lines.append(f"{added} added since the archive was listed; the same command scores them")
    return [Line(text) for text in lines]
