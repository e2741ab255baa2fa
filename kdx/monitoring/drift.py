"""Whether parts still score as at calibration: lamps age, lenses gather dust, suppliers change.

The bundle stores the scores of the held-out good images. The line's recent scores are compared with
them by the two-sample Kolmogorov-Smirnov test. Its statistic, the largest difference between the
two distribution functions, is the size of the effect and the main criterion: with thousands of
parts any difference is significant, and only a large one matters. A few defective parts among the
good ones increase the statistic by at most their share.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.bundle.bundle import Bundle
from kdx.bundle.variants import OWN_THRESHOLD
from kdx.errors import DataError, OptionError
from kdx.monitoring.judged_by import bundle_name
from kdx.monitoring.verdict_log import LoggedVerdicts

WINDOW = 500
FEWEST_VERDICTS = 50
# A quarter of the parts score unlike those at calibration, far more than any usual share of
# defective parts.
EFFECT = 0.25
SIGNIFICANCE = 1e-3
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Comparison(NamedTuple):
    """Two samples of scores, compared by the two-sided Kolmogorov-Smirnov test.

    Attributes:
        effect: The largest difference of the two distribution functions, 0 to 1.
        p_value: The p-value of the test.
        alarm: Whether the effect reaches its limit and is significant.
    """

    effect: float
    p_value: float
    alarm: bool


class QuantileShift(msgspec.Struct, frozen=True, kw_only=True):
    """A quantile of the scores, at calibration and now.

    Attributes:
        share: The share of the parts that score below.
        calibration: The score at calibration.
        recent: The score now.
    """

    share: float
    calibration: float
    recent: float


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How recent scores differ from those at calibration.

    Attributes:
        effect: The largest difference of the two distribution functions, 0 to 1.
        p_value: The p-value of the two-sided Kolmogorov-Smirnov test.
        effect_limit: The smallest effect that raises an alarm, if it is significant.
        significance: The largest p-value that raises an alarm.
        direction: Where recent scores lie: ``higher``, ``lower``, or ``same`` within half a
            percent.
        calibrated: The number of scores of held-out good images.
        recent: The number of recent scores that are compared.
        without_part: The number of recent frames that show no part. Their scores are not compared:
            calibration has none of such frames.
        other_region: The number of recent calls with another region of interest than the
            bundle's. Their scores are not compared: calibration has none of that region.
        since: The UTC time, ISO 8601, since which every window differs by the effect limit; None
            without an alarm.
        quantiles: The quantiles of both distributions.
        rejected: The share of defective parts among recent frames that were decided; None if none
            was.
        undecided: The share of recent frames that were undecided, those that are not compared
            included.
        alarm: Whether the effect reaches its limit and is significant.
    """

    effect: float
    p_value: float
    effect_limit: float
    significance: float
    direction: str
    calibrated: int
    recent: int
    without_part: int
    other_region: int
    since: str | None
    quantiles: list[QuantileShift]
    rejected: float | None
    undecided: float
    alarm: bool


def find_drift(
    bundle: Bundle,
    log: LoggedVerdicts,
    *,
    window: int = WINDOW,
    effect_limit: float = EFFECT,
    significance: float = SIGNIFICANCE,
) -> Drift:
    """Compare the latest scores of a log with the bundle's calibration.

    Args:
        bundle: The bundle, calibrated.
        log: A log of the same graph.
        window: The number of latest verdicts to compare, and the length of the earlier windows that
            show since when scores differ.
        effect_limit: The smallest effect that raises an alarm, above 0 and at most 1.
        significance: The largest p-value that raises an alarm, above 0 and below 1.

    Raises:
        OptionError: An invalid window or limit.
        DataError: The log belongs to another graph, or is too short; or the bundle does not store
            the scores of its calibration.
    """
    if window < FEWEST_VERDICTS or not 0 < effect_limit <= 1 or not 0 < significance < 1:
        raise OptionError(
            "invalid window or limit",
            expected=f"a window of at least {FEWEST_VERDICTS}, an effect above 0 and at most 1, "
            "a significance between 0 and 1",
            received=f"{window}, {effect_limit:g}, {significance:g}",
        )
    calibrated = _calibrated(bundle, log)
    usable = np.flatnonzero(np.isfinite(log.scores) & log.has_part & ~log.other_region)
    scores, times = log.scores[usable], log.times[usable]
    if len(scores) < FEWEST_VERDICTS:
        raise DataError(
            f"the log holds {len(scores)} scores of frames that show a part, in the bundle's region of interest",
            expected=f"at least {FEWEST_VERDICTS}",
            fix="wait for more parts",
        )
    recent = scores[-window:]
    effect, p_value, alarm = compare(recent, calibrated, effect_limit, significance)
    frames = slice(usable[-window:][0], None)
    latest = log.decisions[frames]
    decided = np.isin(latest, ("good", "review", "defective"))
    return Drift(
        effect=round(effect, 4),
        p_value=p_value,
        effect_limit=effect_limit,
        significance=significance,
        direction=_direction(recent, calibrated),
        calibrated=len(calibrated),
        recent=len(recent),
        without_part=int((~log.has_part[frames]).sum()),
        other_region=int(log.other_region[frames].sum()),
        since=_since(scores, times, calibrated, window, effect_limit) if alarm else None,
        quantiles=[
            QuantileShift(share=q, calibration=float(np.quantile(calibrated, q)), recent=float(np.quantile(recent, q)))
            for q in SHARES
        ],
        rejected=float((latest[decided] == "defective").mean()) if decided.any() else None,
        undecided=float(1 - decided.mean()),
        alarm=alarm,
    )


def compare(
    recent: NDArray[np.float64],
    calibrated: NDArray[np.float64],
    effect_limit: float = EFFECT,
    significance: float = SIGNIFICANCE,
) -> Comparison:
    """Compare recent scores with those of the calibration.

    Few scores differ by a large effect where nothing has changed: of 20 scores at calibration and
    50 recent ones, more than a quarter of such pairs reach 0.25. So an alarm needs both.

    Args:
        recent: The recent scores, ``(N,)``.
        calibrated: The scores of held-out good images, ``(M,)``.
        effect_limit: The smallest effect that raises an alarm.
        significance: The largest p-value that raises an alarm.
    """
    from scipy.stats import ks_2samp  # its import takes longer than most commands

    test = ks_2samp(recent, calibrated)
    effect, p_value = float(test.statistic), float(test.pvalue)
    return Comparison(effect, p_value, effect >= effect_limit and p_value <= significance)


def _calibrated(bundle: Bundle, log: LoggedVerdicts) -> NDArray[np.float64]:
    facts, manifest = log.facts, bundle.manifest
    if (
        facts.precision not in manifest.precisions
        or bundle.graph_of(facts.precision).sha256 != facts.graph_sha256
        or (facts.roi_sha256, facts.level_sha256) != (manifest.roi_sha256, manifest.level_sha256)
    ):
        raise DataError(
            "the log belongs to another bundle, or to an earlier state of this one: its graph, region of interest or "
            "level map has changed",
            expected=f"{bundle_name(bundle)} in {' or '.join(manifest.precisions)}, as it is now",
            received=facts.describe(),
        )
    if facts.precision in OWN_THRESHOLD and facts.runtime is None:
        raise DataError(
            f"the log was begun by an older kdx, which did not record the runtime of its {facts.precision} scores",
            fix="begin another log: kdx.load(BUNDLE, log=PATH)",
        )
    threshold = manifest.threshold_of(facts.precision, facts.runtime)
    if threshold is None or not threshold.scores:
        raise DataError(
            f"'{bundle.path}' does not store the scores of its calibration", fix=f"kdx calibrate {bundle.path} DATA"
        )
    return np.array(threshold.scores)


def _direction(recent: NDArray[np.float64], calibrated: NDArray[np.float64]) -> str:
    """Return where recent scores lie, by the probability that one exceeds a calibration score."""
    ordered = np.sort(calibrated)
    below, up_to = (np.searchsorted(ordered, recent, side=side) for side in ("left", "right"))
    probability = float((below + up_to).mean()) / (2 * len(ordered))
    return "same" if abs(probability - 0.5) < 0.005 else "higher" if probability > 0.5 else "lower"


def _since(
    scores: NDArray[np.float64],
    times: NDArray[np.float64],
    calibrated: NDArray[np.float64],
    window: int,
    effect_limit: float,
) -> str:
    """Return the time since which every window, counted back from the latest, differs."""
    start = max(0, len(scores) - window)
    while start > 0:
        before = scores[max(0, start - window) : start]
        if len(before) < FEWEST_VERDICTS or compare(before, calibrated).effect < effect_limit:
            break
        start = max(0, start - window)
    return datetime.fromtimestamp(float(times[start]), timezone.utc).isoformat(timespec="seconds")
