"""The same part, judged many times: what ``kdx repeat`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from kdx.bundle.open import open_bundle
from kdx.calibration.repeatability import CAPABLE, USUAL_IMAGES, Repeatability, apart, repeatability
from kdx.decision.verdict import Decision, Verdict
from kdx.errors import BackendError, DataError, ImageError
from kdx.folders.bad_images import skip_bad
from kdx.folders.copies import unknown
from kdx.folders.image_search import checked_is_dir, folders, holds_images, image_files, listing
from kdx.imaging.grey_conversion import grey_conversion_remarks
from kdx.imaging.image_identity import Identity, Likeness, distinct, identify
from kdx.loading.load import load
from kdx.progress import SILENT, Progress, track
from kdx.remarks import Remark, remark
from kdx.runtime.banded import judge_path
from kdx.text import number, number_of
from kdx.workflows.calibration_images import chosen_on
from kdx.workflows.packages import require_reader

_TRAINED_ON = (
    "[image was|images were] trained on: [its score is|their scores are] too low, and may repeat better than those of "
    "parts that the detector has not seen"
)
_NEAR_TRAINED_ON = "[image is|images are] nearly the same as images trained on: [its score|their scores] may be too low"
_CALIBRATED_ON = "[image|images] chose the threshold: the margin to it is not that of another part"
_CALIBRATION_UNKNOWN = (
    "[image was|images were] not compared with those that chose the threshold, because the bundle keeps no hashes of "
    "single ones (calibrate again to keep the hashes)"
)


class Repetition(msgspec.Struct, frozen=True):
    """One image of the part.

    Attributes:
        image: The path of the file.
        score: The score; None for a frame that shows no part and is undecided.
        verdict: The decision.
    """

    image: str
    score: float | None
    verdict: str


@dataclass
class RepeatStudy:
    """One part, judged many times.

    Attributes:
        found: The repeatability.
        repetitions: The images, each once, in the order of their names.
        backend: The backend that judged.
        precision: The precision that it computed in.
        bad_images: Images that could not be read, and why.
        remarks: What makes the study doubtful.
    """

    found: Repeatability
    repetitions: list[Repetition]
    backend: str
    precision: str
    bad_images: dict[str, str] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def as_record(self) -> dict[str, object]:
        """Return what ``kdx repeat --json`` prints."""
        return {
            **msgspec.to_builtins(self.found),
            "backend": self.backend,
            "precision": self.precision,
            "repetitions": self.repetitions,
            "bad_images": self.bad_images,
            "remarks": self.remarks,
        }


def repeat(
    bundle: Path,
    folder: Path,
    backend: str = "auto",
    threads: int | None = None,
    *,
    max_bad_images: int = 0,
    progress: Progress = SILENT,
) -> RepeatStudy:
    """Judge each image of a folder, all of which show one part, and compare their scores.

    Args:
        bundle: The bundle.
        folder: The images, without folders in it.
        backend: The backend that judges.
        threads: Threads within an operation.
        max_bad_images: How many images may be unreadable.
        progress: Shows the images.

    Raises:
        DataError: Too few images, images in several folders, or a bundle without a threshold.
        ImageError: More images than allowed cannot be read.
        BackendError: An answer is not one that the method can give.
    """
    paths = _images_of(folder)
    bad: dict[str, str] = {}
    judged: dict[Path, Repetition] = {}
    identities: list[tuple[Path, Identity]] = []
    with load(bundle, backend, threads) as detector:
        threshold, held_out, spec = detector.threshold, detector.rule.good_scores, detector.input
        if threshold is None:
            raise DataError(f"'{bundle}' has no threshold to compare scores with", fix="run kdx calibrate BUNDLE DATA")
        require_reader(detector.input)
        for number, path in enumerate(track(progress, paths, "judging", len(paths)), 1):
            try:
                identity = identify(path)
                verdict, _ = judge_path(detector, path)
            except ImageError as error:
                skip_bad(path, error, bad, max_bad_images, len(paths) - number)
                continue
            judged[path] = _repetition(path, verdict)  # the map of each verdict would fill the memory
            identities.append((path, identity))
    by_path, (kept, copies) = dict(identities), distinct(identities)
    shown = [path for path in kept if judged[path].score is not None]
    scores = np.array([judged[path].score for path in shown], dtype=np.float64)
    decisions = [Decision(judged[path].verdict) for path in kept]
    empty = [path for path in kept if judged[path].score is None]
    counted = {"[copy|copies]": len(copies), "[frame that shows|frames that show] no part": len(empty)}
    left_out = " and ".join(number_of(count, text) for text, count in counted.items() if count)
    found = repeatability(scores, decisions, threshold, held_out.kept if held_out else (), left_out)
    far = [path for path, is_apart in zip(shown, apart(scores), strict=True) if is_apart]
    return RepeatStudy(
        found,
        [judged[path] for path in kept],
        detector.backend.name,
        detector.precision,
        bad,
        [
            *_remarks(found, copies, empty, far),
            *_used_before(bundle, [(path, by_path[path]) for path in shown]),
            *grey_conversion_remarks(kept, spec),
        ],
    )


def describe(found: Repeatability) -> list[str]:
    """Return the figures of a study in words, a line for each."""
    low, high = found.sigma_interval
    verdicts = ", ".join(f"{name} {count}" for name, count in found.verdicts.items())
    capable = "" if found.cg is None else f", {'at least' if found.cg >= CAPABLE else 'below'} {CAPABLE}"
    side = "below" if found.margin >= 0 else "above"
    lines = [
        f"{found.images} images: mean score {number(found.mean)}, range {number(found.smallest)} to "
        f"{number(found.largest)} ({number(found.range)})",
        f"repeatability: standard deviation {number(found.sigma)} (95 % interval {number(low)} to {number(high)})",
        f"Cg {number(found.cg)}{capable}: 20 % of the threshold {number(found.threshold)}, divided by 6 standard "
        "deviations",
        f"margin: the mean is {number(abs(found.margin))} {side} the threshold, {number(found.margin_in_sigmas)} "
        f"standard deviations; divided by 3 of them {number(found.decision_capability)}",
        f"verdicts: {verdicts}; {number_of(found.changed, '[differs|differ]')} from the most frequent one",
    ]
    if found.sigma_of_good is not None:
        lines.append(f"for comparison: different good parts have a standard deviation of {number(found.sigma_of_good)}")
    return lines


def _repetition(path: Path, verdict: Verdict) -> Repetition:
    """Return what a study keeps of a verdict.

    Raises:
        BackendError: The answer is not one that the method can give, and has no score.
    """
    if verdict.reason is not None and verdict.reason.is_of_answer:
        raise BackendError(
            f"the answer on '{path}' is not one that the method can give",
            received=verdict.reason.value,
            fix="run kdx verify: the runtime, its driver or the graph is at fault",
        )
    is_decided = verdict.decision is not Decision.UNDECIDED
    return Repetition(str(path), verdict.score if is_decided else None, verdict.decision.value)


def _images_of(folder: Path) -> tuple[Path, ...]:
    """Return the images directly in a folder, which show one part."""
    if not checked_is_dir(folder):
        raise DataError(f"there is no folder '{folder}'", fix="name the folder with the images of one part")
    others = [each.name for each in folders(folder) if holds_images(each)]
    if others:
        raise DataError(
            f"'{folder}' holds folders of images",
            expected="a folder with the images of one part, and nothing else",
            received=f"{others[0]}/" + (f" and {len(others) - 1} more" if len(others) > 1 else ""),
            fix="study each part by itself, and name its folder",
        )
    paths = image_files(folder)
    if not paths:
        raise DataError(f"no images were found in '{folder}'", expected="image files", received=listing(folder))
    return paths


def _used_before(path: Path, images: Sequence[tuple[Path, Identity]]) -> list[Remark]:
    """Return remarks on images that the detector was trained on, or that chose its threshold."""
    bundle = open_bundle(path)
    trained = bundle.training_images()
    likeness = [(file, trained.likeness(identity)) for file, identity in images]
    chose = chosen_on(bundle, images)
    return [
        *remark("trained_on", _TRAINED_ON, [file for file, found in likeness if found is Likeness.SAME]),
        *remark("near_trained_on", _NEAR_TRAINED_ON, [file for file, found in likeness if found is Likeness.NEAR]),
        *remark("calibrated_on", _CALIBRATED_ON, chose or ()),
        *remark("calibration_unknown", _CALIBRATION_UNKNOWN, [file for file, _ in images] if chose is None else ()),
        *unknown(trained, len(images)),
    ]


def _remarks(found: Repeatability, copies: Sequence[Path], empty: Sequence[Path], far: Sequence[Path]) -> list[Remark]:
    remarks = [
        *remark("copies", "[image is a copy of another and was|images are copies of others and were] left out", copies),
        *remark("no_part", "[frame shows|frames show] no part: undecided, and without a part in the figures", empty),
        *remark(
            "apart",
            "[image scores|images score] far from the others: look whether [it shows|they show] the same part",
            far,
        ),
    ]
    if found.images < USUAL_IMAGES:
        text = f"images are few: a type-1 study has 50, and at least {USUAL_IMAGES}"
        remarks.append(Remark(kind="few_images", text=text, count=found.images, first=()))
    if found.is_mixed:
        text = (
            "images do not spread clearly less than those of different good parts (standard deviation "
            f"{number(found.sigma)}, up to {number(found.sigma_interval[1])}, and {number(found.sigma_of_good)}): they "
            "show several parts, or the station does not repeat"
        )
        remarks.append(Remark(kind="mixed_parts", text=text, count=found.images, first=()))
    return remarks
