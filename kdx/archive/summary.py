"""The summary of an output folder of ``kdx score``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdx.archive.plan import ShardPlan
from kdx.archive.results_folder import ScoreFolder
from kdx.archive.score_records import Index, Settings, ShardResult, Summary, ThisRun, decisions_of
from kdx.archive.shard_table import read_bad, read_result, read_scores, shard_file
from kdx.bundle.bundle import Bundle
from kdx.calibration.validity import CalibrationValidity
from kdx.decision.good_scores import GoodScores
from kdx.folders.image_search import LeftOut
from kdx.imaging.grey_conversion import COLOUR, COLOUR_TEXT
from kdx.imaging.value_range import union
from kdx.remarks import FIRST, Remark
from kdx.runtime.backend_table import find_backend
from kdx.text import agreeing

_QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)
_EXAMPLES = 20


def summarise(folder: ScoreFolder, index: Index, plan: ShardPlan, bundle: Bundle, this_run: ThisRun) -> Summary:
    """Return the summary of all shards of the folder."""
    paths = [shard_file(folder.path, number) for number in range(plan.shards)]
    results = [read_result(path) for path in paths]
    scores = np.concatenate([read_scores(path) for path in paths])
    scores = scores[np.isfinite(scores)]
    quantiles = np.quantile(scores, _QUANTILES).tolist() if len(scores) else []
    examples: list[dict[str, str]] = []
    for result, path in zip(results, paths, strict=True):
        if result.bad and len(examples) < _EXAMPLES:
            examples += read_bad(path, _EXAMPLES - len(examples))
    threshold = bundle.manifest.threshold_of(index.settings.precision, find_backend(index.settings.backend).runtime)
    left_out = LeftOut()
    held_out = GoodScores.of(threshold) if threshold else None
    added_since = folder.count_added(index, left_out)
    frames, bad = sum(result.frames for result in results), sum(result.bad for result in results)
    return Summary(
        settings=index.settings,
        threshold=threshold.score if threshold else None,
        threshold_by_hand=threshold.reason if threshold else None,
        held_out_images=held_out.images if held_out else 0,
        shards=plan.shards,
        frames=frames,
        decisions=decisions_of(results),
        bad=bad,
        quantiles={f"{share:g}": value for share, value in zip(_QUANTILES, quantiles, strict=False)},
        bad_examples=examples,
        added_since=added_since,
        linked_folders=index.listed[-1].linked_folders,
        remarks=[*left_out.remarks, *_seen_in_grey(results), *_doubts(bundle, index.settings, frames - bad)],
        this_run=this_run,
        narrow=sum(result.narrow for result in results),
        narrow_levels=union(result.narrow_levels for result in results if result.narrow_levels is not None),
        narrow_example=next((result.narrow_example for result in results if result.narrow), ""),
    )


def of_all_images(bundle: Bundle, summary: Summary) -> dict[str, object]:
    """Return the columns of the table that have one value for all images that were scored."""
    settings = summary.settings
    threshold = bundle.manifest.threshold_of(settings.precision, find_backend(settings.backend).runtime)
    return {
        "held_out_images": summary.held_out_images,
        "backend": settings.backend,
        "precision": settings.precision,
        "threshold_by_hand": summary.threshold_by_hand,
        "review_threshold": threshold.review.score if threshold and threshold.review else None,
    }


def _seen_in_grey(results: Sequence[ShardResult]) -> list[Remark]:
    """Return a remark on the colour images of all shards that a mono detector saw in grey."""
    count = sum(result.colour_count for result in results)
    first = tuple(path for result in results for path in result.colour)[:FIRST]
    return [Remark(kind=COLOUR, text=agreeing(count, COLOUR_TEXT), count=count, first=first)] if count else []


def _doubts(bundle: Bundle, settings: Settings, scored: int) -> list[Remark]:
    """Return a remark on images whose verdicts are undecided or uncertain, where FP32's are not."""
    runtime = find_backend(settings.backend).runtime
    validity = CalibrationValidity(bundle.manifest, settings.precision, runtime)
    doubt = validity.why_undecided or validity.why_uncertain
    if doubt is None or not scored:
        return []
    text = f"{agreeing(scored, '[image was|images were]')} scored, but {doubt}"
    return [Remark(kind="calibration", text=text, count=scored, first=())]
