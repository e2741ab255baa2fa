"""What ``kdx calibrate`` prints of what it found."""

from __future__ import annotations

from collections.abc import Iterator

from kdx.bundle.stored_threshold import Threshold
from kdx.calibration.described import describe
from kdx.calibration.frame_limits import FEWEST_IMAGES
from kdx.calibration.rates import images_to_bound
from kdx.calibration.threshold import Calibration
from kdx.text import Line, interval, number, number_of
from kdx.workflows.calibrations import Calibrations

# What a calibration removes where it is not asked for again, and the option that keeps it.
_REMOVED = {
    "review_band": (
        "the review band was removed",
        "parts that somebody looked at are good now. To keep a band: --review-rate, or --review with --threshold",
    ),
    "level_map": (
        "the level map was removed",
        "scores are no longer relative to what good parts show at each place. To keep one: --per-position",
    ),
}


def describe_calibrations(found: Calibrations) -> list[Line]:
    """Return the threshold, what it was chosen on, and what else was learned or refused."""
    result = found.exact
    return [*_choice(result), *_own_thresholds(found), *_frames(result), *_review(result.threshold), *_doubts(found)]


def _choice(result: Calibration) -> Iterator[Line]:
    threshold, chosen = result.threshold, result.threshold.defects
    skipped = f"({result.trained_on} that were trained on skipped)"
    if threshold.by_hand:
        yield Line(f"threshold {describe(threshold)}")
        yield Line("nothing promises that rate: the number is the person's who set it")
    elif chosen is not None:
        yield Line(f"threshold {threshold.score:.6g}, chosen on defects")
        yield Line(
            f"misses {chosen.misses} of {number_of(chosen.images, 'defective [image|images]')}, rejects "
            f"{chosen.false_rejects} of {threshold.images} held-out good ones {skipped}: the smallest sum of both rates"
        )
        yield Line("it fits these defects and promises nothing for others: measure it on other images")
    else:
        rate = f"{100 * threshold.false_reject_rate:g} %"
        yield Line(f"threshold {threshold.score:.6g} for {rate} false rejects")
        images = number_of(threshold.images, "held-out good [image|images]")
        yield Line(f"95 % interval {interval(*threshold.interval)}, from {images} {skipped}")
        if threshold.interval[1] is None:
            takes = images_to_bound(threshold.false_reject_rate)
            few = number_of(threshold.images, "good [image|images]")
            yield Line(f"{few} cannot bound it from above; for {rate} it takes about {takes}")
    if threshold.level is not None:
        others = number_of(threshold.level.images, "other good [image says|images say]")
        yield Line(f"per position: {others} how hot each place gets; that is 1")


def _own_thresholds(found: Calibrations) -> Iterator[Line]:
    """Yield the thresholds of BF16 and INT8."""
    for precision, by_runtime in found.thresholds().items():
        for runtime, own in by_runtime.items():
            kept = f", kept from {own.created}: the same images" if runtime in found.kept.get(precision, {}) else ""
            how = "on the scale of its own scores" if own.by_hand else "from its own scores of the same images"
            yield Line(f"{precision} in {runtime}: {own.score:.6g}, {how}{kept}")


def _frames(result: Calibration) -> Iterator[Line]:
    """Yield what was learned of frames, and which images it does not fit, or rests on alone."""
    if result.frame_faults:
        path, seen = next(iter(result.frame_faults.items()))
        yield Line(
            "hardly any image that is known to be good looks like that, so nothing was learned from it, and the line "
            f"calls no such frame good. '{path}' is {' and '.join(seen)}",
            number_of(len(result.frame_faults), "good [image shows|images show] no part"),
        )
    limits = result.frame_limits
    if not limits.channels:
        few = f"fewer than {FEWEST_IMAGES} good images to learn from"
        yield Line(f"frames are checked for black, white, overexposed and uniform ones alone: {few}")
    for index, channel in enumerate(limits.channels, 1):
        name = f" (channel {index})" if len(limits.channels) > 1 else ""
        yield Line(
            f"frames{name}, from {limits.images} good images: brightness {number(channel.darkest)} to "
            f"{number(channel.brightest)}, contrast from {number(channel.contrast)}, structure from "
            f"{number(channel.structure)}, roughness from {number(channel.roughness)}; others are never good: "
            "defective above the threshold, else undecided. None of these images is beyond these limits"
        )
    if result.frame_outliers:
        yield Line(
            f"look whether they show a part. '{result.frame_outliers[0]}' is one",
            f"{len(result.frame_outliers)} of these images alone widen these limits",
        )


def _review(threshold: Threshold) -> Iterator[Line]:
    band = threshold.review
    if band is not None and not threshold.by_hand:
        rate = f"{100 * band.false_reject_rate:g} %"
        yield Line(
            f"review from {band.score:.6g}, which {rate} of good parts exceed; 95 % interval {interval(*band.interval)}"
        )


def _doubts(found: Calibrations) -> Iterator[Line]:
    """Yield what the bundle lost, and which thresholds it lacks."""
    if found.signature_removed:
        yield Line("it was for another threshold; sign again with kdx sign", "the signature was removed")
    for name in found.removed:
        what, said = _REMOVED[name]
        yield Line(said, what)
    for precision, faults in found.refused.items():
        for runtime, fault in faults.items():
            yield Line(fault, f"{precision} has no threshold in {runtime}", failed=True)
    for precision, runtimes in found.missing.items():
        yield Line(
            "no verdict there until kdx calibrate, with the same images, on a machine that can",
            f"{precision} has no threshold for {' and '.join(runtimes)}, which cannot run it here",
        )
