"""The page: everything that was found, put into one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kd_train.evaluation.evaluate import Evaluation, Scored
from kdx import __version__
from kdx.bundle.bundle import Bundle
from kdx.bundle.stored_threshold import Threshold
from kdx.calibration.described import describe
from kdx.calibration.rates import settable_thresholds
from kdx.calibration.validity import CalibrationValidity
from kdx.decision.good_scores import GoodScores
from kdx.folders.data_folder import GOOD, FolderOptions
from kdx.remarks import remark
from kdx.runtime.backend_table import runtime_of
from kdx.runtime.detector import Detector
from kdx.storage.json_records import now
from kdx.text import number_of, spelled
from kdx.workflows.report.curves import HEIGHT, LEFT, TOP, WIDTH, axis_of, curves_of, histogram
from kdx.workflows.report.intervals import intervals_of
from kdx.workflows.report.pictures import Picture
from kdx.workflows.report.report_images import ReportImages

if TYPE_CHECKING:
    from kdx.runtime.latency import Latency
    from kdx.runtime.machine import Machine
    from kdx.verification.certificate import Certificate


@dataclass(frozen=True)
class BackendLatencies:
    """How long verdicts take on this machine."""

    machine: Machine
    latencies: list[Latency]
    failed: dict[str, str]


@dataclass(frozen=True)
class Content:
    """What a page shows; figures are those of ``kdx evaluate``."""

    bundle: Bundle
    data: Path
    category: str | None
    options: FolderOptions
    material: ReportImages
    scored: Scored
    result: Evaluation
    pictures: list[Picture]
    certificate: Certificate
    timing: BackendLatencies | None
    detector: Detector

    @property
    def runtime(self) -> str:
        """What computed the reported scores."""
        return runtime_of(self.detector.backend.name)

    @property
    def threshold(self) -> Threshold | None:
        """At which the reported scores are decided."""
        return self.bundle.manifest.threshold_of(self.detector.precision, self.runtime)

    @property
    def good_scores(self) -> GoodScores | None:
        """The scores that p-values stand on."""
        return GoodScores.of(self.threshold) if self.threshold else None

    @property
    def by_hand(self) -> str:
        """That threshold in words if a person set it, else an empty text."""
        return describe(self.threshold) if self.threshold and self.threshold.by_hand else ""


def render_page(content: Content) -> bytes:
    """Return the page as UTF-8; what comes from file names and bundles is escaped."""
    environment = Environment(
        loader=PackageLoader("kdx.workflows.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["number"] = lambda value: f"{value:.4g}"
    environment.filters["spelled"] = spelled
    scored, pieces = content.scored, files("kdx.workflows.report") / "page"
    axis = axis_of(_on_axis(content))
    roi = content.detector.roi
    script = (pieces / "page.js").read_text(encoding="utf-8")
    page = environment.get_template("page.html").render(
        content=content,
        manifest=content.bundle.manifest,
        version=__version__,
        created=now().replace("T", " ").replace("+00:00", " UTC"),
        notes=[*notes_of(content), *map(str, (*content.material.remarks, *content.result.remarks))],
        curves=curves_of(scored, content.result, roi.counted if roi else None),
        box={"left": LEFT, "top": TOP, "width": WIDTH, "height": HEIGHT},
        histogram=histogram(axis.position(scored.scores), scored.types != GOOD),
        axis=axis,
        ticks=axis.ticks(),
        trained_images=len(content.bundle.training_images()) - content.bundle.manifest.provenance.earlier_images,
        style=Markup((pieces / "page.css").read_text(encoding="utf-8")),  # noqa: S704  # our own file
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_json({**_facts(content), "axis": axis.as_dict()}),
    )
    # A file name that is not UTF-8 holds what cannot be encoded.
    return page.encode("utf-8", errors="replace")


def notes_of(content: Content) -> list[str]:
    """Return what a reader must know before believing the figures."""
    material, result, threshold = content.material, content.result, content.threshold
    found: list[str] = []
    manifest, precision = content.bundle.manifest, content.detector.precision
    validity = CalibrationValidity(manifest, precision, content.runtime)
    changed = manifest.changed_since(precision, content.runtime)
    if changed is not None:
        found.append(
            f"{changed.capitalize()} was changed after the calibration, whose threshold decides nothing now: calibrate "
            "again. The threshold below is only where the slider begins."
        )
    elif undecided := validity.why_undecided:
        found.append(f"{undecided}. The threshold below is only where the slider begins.")
    elif threshold is None:
        found.append(
            "The bundle is not calibrated: no threshold has been promised, and the one below is only where the slider "
            "begins."
        )
    elif threshold.reason is not None:
        found.append(
            f"The threshold was set by hand ({threshold.reason}): nothing promises its rate. The command below sets "
            "one from good images."
        )
    elif threshold.defects is not None:
        found.append(
            f"The threshold was chosen on {number_of(threshold.defects.images, 'defective [image|images]')} "
            "(--with-defects): it fits "
            "those and promises no rate. The command below sets one from good images alone."
        )
    uncertain = validity.why_uncertain
    if uncertain is not None:
        found.append(f"{uncertain[0].upper()}{uncertain[1:]}.")
    if content.detector.roi is not None:
        share = 100 * content.detector.roi.included.mean()
        found.append(f"Only the region of interest counts, {share:.3g} % of the image; the rest is dark in heat maps.")
    if not content.detector.pixel_threshold:
        found.append(
            "Heat maps have no threshold: each is coloured up to its own maximum, so the hottest place of a good part "
            "is as bright as a defect's."
        )
    if not result.defective:
        found.append(
            "There are no defective images: neither misses, nor AUROC, precision or PRO can be shown. Only the rate of "
            "false rejects can be looked at."
        )
    elif not result.good:
        found.append("There are no good images: neither false rejects, nor AUROC, precision or PRO can be shown.")
    elif content.scored.masks is None:
        found.append("There are no masks: nothing can be said of pixels (pixel AUROC, PRO).")
    if content.scored.annotations is not None:
        found += [f"{one}." for one in content.scored.annotations.remarks()]
    if not material.is_test:
        kind = "among which are those the threshold was calibrated on" if material.holds_calibration else "as given"
        found.append(
            f"These are not test images: the folder has no test split, so its good images were scored ({kind}). Of "
            "images that set the threshold, hardly more than the asked rate can be rejected."
        )
    if material.trained_on:
        found.append(
            number_of(
                material.trained_on,
                "[image was|images were] skipped: the student was trained on [it|them].",
            )
        )
    if material.is_sampled:
        found.append(
            f"A sample of {len(material.images):,} of {material.found:,} images was scored, the rarer types of defect "
            "more completely than the others; precision depends on that mix."
        )
    if content.scored.masks is not None and len(content.scored.maps) < len(content.scored.images):
        found.append(
            f"Pixel AUROC and PRO are of a sample of {len(content.scored.maps):,} of these images, for want of memory."
        )
    scored = content.scored
    without_part = scored.has_faults & (scored.scores <= _start(content))
    text = (
        "[image looks like a frame|images look like frames] without a part and [is|are] undecided: a score above the "
        "threshold would reject [it|them], and no score makes [it|them] good"
    )
    paths = [scored.images[index].path for index in np.flatnonzero(without_part).tolist()]
    found += map(str, remark("no_part", text, paths))
    if not content.certificate.passed:
        found.append("The certificate FAILED on this machine: do not deploy this bundle here.")
    if missing := content.certificate.not_compared:
        found.append(f"No backend of this machine runs {', '.join(missing)}: the certificate says nothing of it.")
    return found


def _on_axis(content: Content) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return all scores that the histogram must show, and the thresholds."""
    values = [content.scored.scores]
    if content.threshold is not None:
        review = content.threshold.review
        values.append(np.array([content.threshold.score, *([review.score] if review else [])]))
    return np.concatenate(values)


def _facts(content: Content) -> dict[str, Any]:
    """Return what the page's script works on."""
    scored, threshold, manifest = content.scored, content.threshold, content.bundle.manifest
    types = [GOOD, *content.result.types]
    review = threshold.review if threshold is not None else None
    held_out = content.good_scores
    return {
        "types": types,
        "images": [
            [score, types.index(name), int(fault), held_out.p_value(score) if held_out else None]
            for score, name, fault in zip(
                scored.scores.tolist(), scored.types.tolist(), scored.has_faults.tolist(), strict=True
            )
        ],
        "calibrated": None
        if threshold is None
        else {"reject": threshold.score, "review": review.score if review else None, "images": threshold.images},
        "intervals": intervals_of(scored, content.result, threshold),
        "start": _start(content),
        "settable": settable_thresholds(threshold) if threshold is not None else [],
        "command": _command(content),
        "holdsCalibration": content.material.holds_calibration,
        "calibratedOn": content.material.calibrated_on,
        "precisions": sorted({*manifest.thresholds, *manifest.runtime_thresholds}),
        "pictures": content.pictures,
        "box": [LEFT, TOP, WIDTH, HEIGHT],
    }


def _start(content: Content) -> float:
    """Return where the slider starts: the threshold, or the highest score of a good image."""
    if content.threshold is not None:
        return content.threshold.score
    good = content.scored.scores[content.scored.types == GOOD]
    return float(good.max() if good.size else content.scored.scores.min())


def _command(content: Content) -> str:
    """Return ``kdx calibrate`` as a shell takes it, up to the rates."""
    uses_data = content.threshold is None or content.material.holds_calibration
    data = shlex.quote(str(content.data)) if uses_data else "HELD_OUT_GOOD_IMAGES"
    category = f" --category {shlex.quote(content.category)}" if content.category and uses_data else ""
    given = content.options if uses_data else FolderOptions()
    subfolders = " --subfolders" if given.subfolders else ""
    good = "".join(f" --good-folder {shlex.quote(name)}" for name in given.good_folders)
    per_position = " --per-position" if content.bundle.manifest.level_sha256 else ""
    return f"kdx calibrate {shlex.quote(str(content.bundle.path))} {data}{category}{subfolders}{good}{per_position}"


def _json(value: object) -> Markup:
    """Return JSON that may stand in a script element: no sign in it can end the element."""
    import msgspec

    text = json.dumps(msgspec.to_builtins(value), separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704


def _percent(value: float | None) -> str:
    return "–" if value is None or np.isnan(value) else f"{100 * value:.1f} %"
