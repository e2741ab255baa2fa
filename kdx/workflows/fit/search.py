"""The search: screen, train the most promising first, write the report and the best bundle."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from kd_train.training.freed_memory import keep_freed_memory
from kd_train.training.from_options import split_names
from kd_train.training.run_config import TRAINING_PACKAGES
from kdx.bundle.teacher_comparison import worse_teacher
from kdx.errors import BackendError
from kdx.folders.apart import require_apart_from_images
from kdx.loading.load import require_outside_bundles
from kdx.progress import Progress
from kdx.runtime.backend_table import BACKENDS
from kdx.runtime.machine import Machine, cpu_features, describe_machine, package_versions
from kdx.storage.cache import nothing_cached
from kdx.storage.files import sha256_bytes, sha256_file
from kdx.storage.json_records import now
from kdx.text import number_of
from kdx.workflows.fit.advice import advice, by_reason, next_command, reason_of, teacher_lines, trial_line
from kdx.workflows.fit.best import keep_best
from kdx.workflows.fit.compact_choice import compact_choice
from kdx.workflows.fit.deadline import Deadline, TooLongError
from kdx.workflows.fit.fit_folder import CONTENT, HELD_OUT, FitFolder
from kdx.workflows.fit.frontier import by_accuracy, next_to_train, rows_of, with_frontier
from kdx.workflows.fit.frontier_plot import write_plots
from kdx.workflows.fit.material import Material, read_material
from kdx.workflows.fit.request import FitRequest, checked
from kdx.workflows.fit.screen import screen
from kdx.workflows.fit.trial import Workshop, was_disturbed
from kdx.workflows.fit.trial_records import (
    LABELLED,
    SCHEMA,
    SYNTHETIC,
    Best,
    Dropped,
    FrontierRow,
    MethodSize,
    Report,
    Screened,
    Trial,
)

_FAILED = -1.0  # below every AUROC
# Options that decide which weights a training finds, and no latency.
_OF_WEIGHTS = {"epochs", "seed", "validation_fraction", "group_by", "parts"}


def fit(request: FitRequest, progress: Progress, say: Callable[[str], None]) -> Report:
    """Find the most accurate detector within a latency budget; write report, plots and bundle.

    Args:
        request: What the user asked for.
        progress: Shows the work.
        say: Takes a line for each thing that is done.

    Raises:
        KdxError: Invalid options or data, an output folder of something else, or no candidate at
            all.
    """
    deadline = Deadline(request.hours)
    keep_freed_memory()
    request = checked(request)
    if not any(info.is_usable() and not info.needs_gpu for info in BACKENDS.values()):
        raise BackendError("no CPU backend is installed on this machine", fix='pip install "kdx[fit]"')
    require_apart_from_images("runs and bundles", request.out, [request.data])
    require_outside_bundles(request.out, "out")
    rate_decides = request.training.validation_fraction is None
    material, request = read_material(request, progress)
    folder = FitFolder(request.out, _settings(request, material), rate_decides=rate_decides)
    machine = describe_machine(request.threads, package_versions((*TRAINING_PACKAGES, "openvino")))
    with folder.held(force=request.force) as discarded:
        if discarded:
            say(f"discarded what earlier calls left in '{request.out}': {', '.join(discarded)}")
        with nothing_cached():
            say(f"screening the latency of {number_of(len(request.candidates()), '[candidate|candidates]')}")
            screened = screen(request, material, folder, _screening_key(request, material, machine), progress)
            passed = [one for one in screened if one.outcome == "may keep"]
            budget = f"{request.budget_ms:g} ms at p{request.percentile:g}"
            say(f"{len(passed)} of {number_of(len(screened), '[candidate|candidates]')} may keep {budget}")
            for line in by_reason(_screened_out([one for one in screened if one.outcome == "failed"])):
                say(f"failed: {line}")
            workshop = Workshop(request, material, folder, machine, progress, say, deadline)
            trials, dropped = _train_in_order(workshop, passed)
            trials = {one.candidate: _undisturbed(workshop, one, trials) for one in passed if one.candidate in trials}
        return _report(workshop, screened, trials, dropped)


def _train_in_order(workshop: Workshop, passed: list[Screened]) -> tuple[dict[MethodSize, Trial], list[Dropped]]:
    """Make every trial that ends within the hours, the most promising first.

    A pair whose largest size would take too long has its next smaller one tried in its place. Where
    hours are given, every pair begins with its smallest size: what cannot be trained in time costs
    time too, and so there are results soon, and the pace of the other sizes is known.
    """
    request, deadline, say = workshop.request, workshop.deadline, workshop.say
    waiting = {one.candidate: one for one in passed}
    trials: dict[MethodSize, Trial] = {}
    dropped: list[Dropped] = []
    while waiting:
        latencies = [(candidate, _latency(one)) for candidate, one in waiting.items()]
        failed = [(each.candidate, _FAILED) for each in dropped if each.cause == "failed"]
        candidate = next_to_train(latencies, [*((c, _accuracy(trial)) for c, trial in trials.items()), *failed])
        sizes = [each for each in waiting if each.pair == candidate.pair]
        is_begun = any(each.pair == candidate.pair for each in trials) or any(
            workshop.is_trained(waiting[each]) for each in sizes
        )
        if request.hours is not None and not is_begun:
            candidate = min(sizes, key=lambda each: each.pixels)
        screened = waiting.pop(candidate)
        drop = Dropped(candidate=candidate, reason="", measured_ms=_measured_ms(screened))
        if deadline.left_s == 0 and not workshop.is_trained(screened):
            dropped.append(msgspec.structs.replace(drop, reason="not trained: the hours were spent", cause="hours"))
            continue
        say(f"[{len(passed) - len(waiting)}/{len(passed)}] {candidate}")
        try:
            trials[candidate] = workshop.trial(screened)
            say(trial_line(trials[candidate]))
            for line in teacher_lines(trials[candidate]):
                say(line)
        except TooLongError as error:
            dropped.append(msgspec.structs.replace(drop, reason=f"not trained: {error}", cause="hours"))
            say(f"{candidate} is not trained: {error}")
        except OSError:  # a full disk is nobody's fault but the disk's
            raise
        except Exception as error:  # training and export can fail differently with every backbone
            dropped.append(msgspec.structs.replace(drop, reason=reason_of(error)))
            say(f"{candidate} failed: {reason_of(error)}")
        gc.collect()
    return trials, dropped


def _undisturbed(workshop: Workshop, screened: Screened, trials: Mapping[MethodSize, Trial]) -> Trial:
    """Return a trial; measure its latencies again if the machine was busy."""
    trial = trials[screened.candidate]
    disturbed = was_disturbed(screened, trial)
    if not disturbed:
        return trial
    workshop.say(f"{disturbed}: measuring it once more")
    return workshop.timed_again(trial)


def _report(
    workshop: Workshop, screened: list[Screened], trials: Mapping[MethodSize, Trial], dropped: list[Dropped]
) -> Report:
    """Put the report together, choose the best, and write everything."""
    request, folder = workshop.request, workshop.folder
    rows = with_frontier(
        [
            row
            for candidate, trial in trials.items()
            for row in rows_of(trial, folder.bundle(candidate).relative_to(folder.path).as_posix(), request.budget_ms)
        ]
    )
    folder.discard_report()
    best, unconfirmed, lost = keep_best(rows, request, folder)
    images = workshop.accuracy_images
    left_out = [*_screened_out(screened), *dropped, *_missing(trials, workshop.without_int8)]
    has_defective = any(image.is_defective for image in workshop.material.folder.test)
    report = Report(
        schema=SCHEMA,
        data=str(request.data),
        category=request.training.category,
        budget_ms=request.budget_ms,
        percentile=request.percentile,
        false_reject_rate=request.false_reject_rate,
        evidence=images.kind if images else LABELLED if has_defective else SYNTHETIC,
        notes=[
            *_notes(workshop, rows),
            *map(str, lost),
            *_doubts(workshop, trials, rows, best),
            *_teachers(trials),
            *_busy(screened, trials),
        ],
        machine=workshop.machine,
        screened=screened,
        rows=rows,
        dropped=left_out,
        best=best,
        advice=[],
        next=next_command(best, request),
        created=now(),
        compact_choice=compact_choice(rows, left_out, request),
        unconfirmed=unconfirmed,
    )
    if best is None:
        report = msgspec.structs.replace(report, advice=advice(report, request))
    folder.write_report(report)
    write_plots(report, folder.plots)
    return report


def _notes(workshop: Workshop, rows: list[FrontierRow]) -> list[str]:
    notes = workshop.accuracy_images.notes() if workshop.accuracy_images and rows else []
    notes += map(str, workshop.material.remarks)
    sizes = {(record.height, record.width) for record in workshop.material.good}
    if len(sizes) > 1:
        notes.append(
            "the images have many sizes and are brought to the network's before a detector takes them: these latencies "
            "are without that time"
        )
    if workshop.request.training.weights == "random":
        notes.append("the teacher's weights are random: accuracy says nothing of detectors with a trained teacher")
    return notes


def _doubts(
    workshop: Workshop, trials: Mapping[MethodSize, Trial], rows: list[FrontierRow], best: Best | None
) -> list[str]:
    """Return what makes the best line doubtful; the most accurate one's where there is no best."""
    row = best.row if best else next(iter(by_accuracy(rows)), None)
    if row is None:
        return []
    trial, precision = trials[row.candidate], row.timing.precision
    # Training, calibration and this call have read the same good images.
    said = {each.kind for each in workshop.material.remarks}
    remarks = [each for each in trial.remarks if each.kind not in said]
    remarks += next(measured.remarks for measured in trial.measured if measured.precision == precision)
    return [f"{row.candidate} {precision}: {each}" for each in remarks]


def _teachers(trials: Mapping[MethodSize, Trial]) -> list[str]:
    lines = [line for trial in trials.values() for line in teacher_lines(trial)]
    worse = {trial.candidate: worse_teacher(trial.teacher_comparisons) for trial in trials.values()}
    return lines + [f"{candidate}: {each}" for candidate, remarks in worse.items() for each in remarks]


def _busy(screened: list[Screened], trials: Mapping[MethodSize, Trial]) -> list[str]:
    lines = [was_disturbed(one, trials[one.candidate]) for one in screened if one.candidate in trials]
    return [
        f"{line}: the machine was busy; on an idle one, the same command measures latencies again"
        for line in lines
        if line
    ]


def _screened_out(screened: list[Screened]) -> list[Dropped]:
    return [
        Dropped(
            candidate=one.candidate,
            reason=one.reason,
            cause="screened",
            measured_ms=_measured_ms(one),
        )
        for one in screened
        if one.outcome != "may keep"
    ]


def _missing(trials: Mapping[MethodSize, Trial], without_int8: Collection[MethodSize]) -> list[Dropped]:
    refused = [
        Dropped(
            candidate=candidate,
            precision=precision,
            reason=reason,
            cause="hours" if precision == "int8" and candidate in without_int8 else "refused",
        )
        for candidate, trial in trials.items()
        for precision, reason in trial.refused.items()
    ]
    return refused + [
        Dropped(candidate=candidate, precision=precision, reason=reason)
        for candidate, trial in trials.items()
        for precision, reason in trial.failed.items()
    ]


def _settings(request: FitRequest, material: Material) -> dict[str, object]:
    files = map(Path, split_names(request.training.weights))
    return {
        "data": str(request.data.resolve()),
        "category": request.training.category,
        "images": material.sha256,
        HELD_OUT: material.held_out_sha256,
        **{f"{CONTENT}'{path}'": sha256_file(path) for path in files if path.is_file()},
        **request.asked(),
    }


def _screening_key(request: FitRequest, material: Material, machine: Machine) -> str:
    """Return a hash of what decides latencies, and how closely they were measured."""
    parts = {
        "budget_ms": request.budget_ms,
        "percentile": request.percentile,
        "precisions": request.precisions,
        "machine": machine,
        "features": cpu_features(),
        "images": material.sha256,
        "options": {name: value for name, value in request.asked().items() if name not in _OF_WEIGHTS},
    }
    return sha256_bytes(msgspec.json.encode(parts))


def _accuracy(trial: Trial) -> float:
    return max((measured.scores.image_auroc for measured in trial.measured), default=_FAILED)


def _latency(screened: Screened) -> float:
    return screened.fastest.p50_ms or 0.0 if screened.fastest else 0.0


def _measured_ms(screened: Screened) -> float | None:
    return screened.fastest.measured_ms if screened.fastest else None
