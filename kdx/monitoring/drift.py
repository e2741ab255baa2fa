"""Do parts still score as they did at calibration? A lamp ages, a lens gathers dust, a supplier changes.

The scores of the held-out good images stand in the bundle. The line's recent scores are held against them with the
two-sample Kolmogorov-Smirnov test: its statistic, the largest difference between the two distribution functions, is the
size of the effect, and comes first. With thousands of parts any difference is significant; only a large one matters. A
few defective parts among the good ones move it by their share at most.
"""

from __future__ import annotations

from datetime import datetime, timezone

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from kdx.bundle.bundle import Bundle
from kdx.bundle.variants import OWN_THRESHOLD
from kdx.errors import DataError, OptionError
from kdx.monitoring.verdict_log import LoggedVerdicts

WINDOW = 500
FEWEST = 50
# A quarter of the parts score where calibration's did not: far beyond any usual share of defective parts.
EFFECT = 0.25
SIGNIFICANCE = 1e-3
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class QuantileShift(msgspec.Struct, frozen=True, kw_only=True):
    """A quantile of the scores, at calibration and now.

    Attributes:
        share: Of the parts that score below.
        calibration: Score at calibration.
        recent: Score now.
    """

    share: float
    calibration: float
    recent: float


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How recent scores differ from those at calibration.

    Attributes:
        effect: Largest difference of the two distribution functions, 0 to 1.
        p_value: Of the Kolmogorov-Smirnov test, two-sided.
        effect_limit: From which on it is an alarm, if significant.
        significance: Largest p-value of an alarm.
        direction: ``higher`` or ``lower``: where recent scores lie; ``same`` within half a percent.
        calibrated: Scores of held-out good images compared with.
        recent: Scores compared.
        since: UTC time, ISO 8601, from which on every window differs so much; None without an alarm.
        quantiles: Of both.
        rejected: Share of recent parts that were defective, undecided ones apart; None where none was decided.
        undecided: Share of recent parts that were undecided.
        alarm: Whether the effect reaches its limit and is significant.
    """

    effect: float
    p_value: float
    effect_limit: float
    significance: float
    direction: str
    calibrated: int
    recent: int
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
    """Hold the latest scores of a log against the bundle's calibration.

    Args:
        bundle: Calibrated.
        log: Of the same graph.
        window: How many of the latest verdicts; and of each window that is looked at to say since when.
        effect_limit: Above 0, at most 1.
        significance: Above 0, below 1.

    Raises:
        OptionError: A window or limit that cannot be.
        DataError: The log is of another graph, or too short; or the bundle's threshold holds no scores.
    """
    if window < FEWEST or not 0 < effect_limit <= 1 or not 0 < significance < 1:
        raise OptionError(
            "the window or a limit is not possible",
            expected=f"a window of {FEWEST} or more, an effect above 0 and at most 1, a significance between 0 and 1",
            received=f"{window}, {effect_limit:g}, {significance:g}",
        )
    calibrated = _calibrated(bundle, log)
    usable = np.isfinite(log.scores)
    scores, times = log.scores[usable], log.times[usable]
    if len(scores) < FEWEST:
        raise DataError(f"the log holds {len(scores)} scores", expected=f"at least {FEWEST}", fix="wait for more parts")
    recent = scores[-window:]
    test = ks_2samp(recent, calibrated)
    effect, p_value = float(test.statistic), float(test.pvalue)
    alarm = effect >= effect_limit and p_value <= significance
    latest = log.decisions[-window:]
    decided = np.isin(latest, ("good", "review", "defective"))
    return Drift(
        effect=round(effect, 4),
        p_value=p_value,
        effect_limit=effect_limit,
        significance=significance,
        direction=_direction(recent, calibrated),
        calibrated=len(calibrated),
        recent=len(recent),
        since=_since(scores, times, calibrated, window, effect_limit) if alarm else None,
        quantiles=[
            QuantileShift(share=q, calibration=float(np.quantile(calibrated, q)), recent=float(np.quantile(recent, q)))
            for q in SHARES
        ],
        rejected=float((latest[decided] == "defective").mean()) if decided.any() else None,
        undecided=float(1 - decided.mean()),
        alarm=alarm,
    )


def effect_of(recent: NDArray[np.float64], calibrated: NDArray[np.float64]) -> float:
    """Return the size of the effect: the largest difference of the scores' distribution functions, 0 to 1."""
    return float(ks_2samp(recent, calibrated).statistic)


def _calibrated(bundle: Bundle, log: LoggedVerdicts) -> NDArray[np.float64]:
    facts, manifest = log.facts, bundle.manifest
    if (
        facts.precision not in manifest.precisions
        or bundle.graph_of(facts.precision).sha256 != facts.graph_sha256
        or (facts.roi_sha256, facts.level_sha256) != (manifest.roi_sha256, manifest.level_sha256)
    ):
        raise DataError(
            "the log is of another bundle, or of this one before it was exported again or its region of interest or "
            "level map set",
            expected=f"{bundle.path.name} in {' or '.join(manifest.precisions)}, as it is now",
            received=facts.describe(),
        )
    if facts.precision in OWN_THRESHOLD and facts.runtime is None:
        raise DataError(
            f"the log is of an older kdx and does not say which runtime computed its {facts.precision} scores",
            fix="begin another log: kdx.load(BUNDLE, log=PATH)",
        )
    threshold = manifest.threshold_of(facts.precision, facts.runtime)
    if threshold is None or not threshold.scores:
        raise DataError(
            f"'{bundle.path}' does not hold the scores of its calibration", fix=f"kdx calibrate {bundle.path} DATA"
        )
    return np.array(threshold.scores)


def _direction(recent: NDArray[np.float64], calibrated: NDArray[np.float64]) -> str:
    """Return to which side recent scores lie: the chance that one of them is above one of calibration's."""
    ordered = np.sort(calibrated)
    below, up_to = (np.searchsorted(ordered, recent, side=side) for side in ("left", "right"))
    higher = float((below + up_to).mean()) / (2 * len(ordered))
    return "same" if abs(higher - 0.5) < 0.005 else "higher" if higher > 0.5 else "lower"


def _since(
    scores: NDArray[np.float64],
    times: NDArray[np.float64],
    calibrated: NDArray[np.float64],
    window: int,
    effect_limit: float,
) -> str:
    """Return the time from which on every window, counted back from the latest, differs as much."""
    start = max(0, len(scores) - window)
    while start > 0:
        before = scores[max(0, start - window) : start]
        if len(before) < FEWEST or effect_of(before, calibrated) < effect_limit:
            break
        start = max(0, start - window)
    return datetime.fromtimestamp(float(times[start]), timezone.utc).isoformat(timespec="seconds")
