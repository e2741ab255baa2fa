"""What ``kdx score`` does, from an archive and a bundle to a summary."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from kdx.archive.local import LocalEngine
from kdx.archive.plan import ShardPlan
from kdx.archive.ray_engine import RayEngine
from kdx.archive.results_folder import SHARD_SIZE, Asked, ScoreFolder, require_same
from kdx.archive.score_records import Index, ScoreWork, Settings, ShardResult, Summary, ThisRun
from kdx.archive.score_request import ScoreRequest
from kdx.archive.shard_table import read_bad, read_result, shard_file, style_of_table, write_table
from kdx.archive.summary import of_all_images, summarise
from kdx.bundle.bundle import Bundle
from kdx.bundle.open import open_bundle
from kdx.calibration.validity import CalibrationValidity
from kdx.decision.map_files import MapFiles
from kdx.errors import DataError, GateError, InputError
from kdx.folders.image_search import walk_parts
from kdx.imaging.bands import require_whole_maps
from kdx.progress import Progress
from kdx.runtime.machine import usable_cores
from kdx.storage.files import write_atomic
from kdx.storage.json_records import encode_record
from kdx.text import number_of
from kdx.verification.backend_choice import BackendChooser


def score_archive(request: ScoreRequest, progress: Progress, say: Callable[[str], None]) -> Summary:
    """Score every image of an archive that has no score yet.

    A call that was stopped is resumed: its shards are finished first, and images that were added to
    the archive meanwhile are counted. When all are finished, a further call lists the archive
    again, and those become new shards.

    Raises:
        DataError: The archive is not a folder, or holds no images.
        OutputError: The output folder holds something else, or scores of something else; or cannot
            be written.
        GateError: More images than allowed could not be used. Finished shards are kept.
        ImportError: The bundle reads frames in bands, and ``tifffile`` is not installed.
    """
    request.check()
    bundle = open_bundle(request.bundle)
    asked = {"maps": request.maps is not None, "masks": request.masks, "coco": request.coco}
    require_whole_maps(bundle.manifest.camera, asked)
    if bundle.manifest.camera.is_in_bands:
        import tifffile  # noqa: F401  # missed now, and not in every process
    folder = ScoreFolder(request.out)
    with folder.held():
        index = _begin(folder, request, bundle, say)
        if request.retry_bad:
            _forget_bad(folder, index, say)
        work, plan, pending = _plan(folder, index, request, bundle)
        if not pending:
            say(f"listing '{index.settings.archive}'")
            index = folder.list_added(index)
            if not index.listed:
                raise DataError(f"no images were found in '{request.archive}'", expected="image files, in any folder")
            work, plan, pending = _plan(folder, index, request, bundle)
        done = [number for number in folder.done() if number < plan.shards]
        images, shards = number_of(plan.frames, "[image|images]"), number_of(plan.shards, "[shard|shards]")
        say(f"{images} in {shards}; finished: {len(done)}")
        earlier = [read_result(shard_file(folder.path, number)) for number in done]
        this_run = _run(request, work, plan, pending, sum(result.bad for result in earlier), progress, say)
        summary = summarise(folder, index, plan, bundle, this_run)
        write_atomic(folder.summary, encode_record(summary))
        style = request.csv or style_of_table(folder.path)  # a table of an earlier call would be outdated
        if style is not None:
            write_table(folder.path, plan.shards, style, of_all_images(bundle, summary))
    return summary


def _begin(folder: ScoreFolder, request: ScoreRequest, bundle: Bundle, say: Callable[[str], None]) -> Index:
    """Start the folder, or check that this call asks for what it was started with."""
    asked = Asked(
        archive=str(request.archive.resolve()),
        bundle=str(bundle.path.resolve()),
        bundle_sha256=bundle.index_sha256,
        backend=request.backend,
        precision=request.precision,
        shard_size=request.shard_size,
        maps=request.maps,
        masks=request.masks or None,
        coco=request.coco or None,
        min_area=request.min_area,
    )
    begun = None if request.force else folder.begun()
    if begun is not None and begun.listed:  # until images are listed, nothing depends on them
        require_same(folder.path, begun.settings, asked)
        return begun
    say(f"choosing what runs '{request.bundle}' here")
    # Chosen once, and not by each process: scores of different backends differ in their last
    # digits.
    info, precision = BackendChooser(bundle, request.backend, request.threads_per_worker, request.precision).choose()
    validity = CalibrationValidity(bundle.manifest, precision, info.runtime)
    warning = validity.why_undecided or validity.why_uncertain
    if warning is not None:
        say(warning)
    settings = Settings(
        archive=asked.archive,
        bundle=asked.bundle,
        bundle_sha256=asked.bundle_sha256,
        backend=info.name,
        precision=precision,
        shard_size=request.shard_size or SHARD_SIZE,
        maps=request.maps,
        masks=request.masks,
        coco=request.coco,
        min_area=request.min_area or 0.0,
    )
    threshold = bundle.manifest.threshold_of(precision, info.runtime)
    if settings.needs_threshold and (threshold is None or threshold.pixel is None):
        raise InputError(
            f"'{request.bundle}' is not calibrated, so there is no pixel threshold for masks and regions",
            fix="calibrate it: kdx calibrate BUNDLE DATA; maps need no threshold",
        )
    if request.force:  # now that nothing is wrong which can be known
        _require_images(request.archive)
        folder.discard()
    return folder.begin(settings)


def _require_images(archive: Path) -> None:
    if next(walk_parts(archive), None) is None:
        raise DataError(f"no images were found in '{archive}'", expected="image files, in any folder")


def _plan(
    folder: ScoreFolder, index: Index, request: ScoreRequest, bundle: Bundle
) -> tuple[ScoreWork, ShardPlan, list[int]]:
    """Return the work for processes, the shards, and the numbers of those not finished."""
    plan = ShardPlan(folder.path, index.listed)
    done = set(folder.done())
    work = ScoreWork(
        archive=index.settings.archive,
        output=str(folder.path),
        bundle=str(bundle.path.resolve()),
        bundle_sha256=index.settings.bundle_sha256,
        backend=index.settings.backend,
        precision=index.settings.precision,
        threads=request.threads_per_worker,
        batch=request.batch,
        listed=index.listed,
        maps=index.settings.maps,
        masks=index.settings.masks,
        coco=index.settings.coco,
        min_area=index.settings.min_area,
    )
    return work, plan, [number for number in range(plan.shards) if number not in done]


def _forget_bad(folder: ScoreFolder, index: Index, say: Callable[[str], None]) -> None:
    """Remove the shards with skipped images, and the maps and masks of all their images."""
    files = MapFiles(folder.path, index.settings.maps, index.settings.masks)
    plan = ShardPlan(folder.path, index.listed)
    bad = [number for number in folder.done() if read_result(shard_file(folder.path, number)).bad]
    for number in bad:
        shard_file(folder.path, number).unlink()
        for name in plan.shard(number).paths:
            files.remove(name)
    say(number_of(len(bad), "[shard|shards] with skipped images [is|are] scored again"))


def _run(
    request: ScoreRequest,
    work: ScoreWork,
    plan: ShardPlan,
    pending: list[int],
    bad: int,
    progress: Progress,
    say: Callable[[str], None],
) -> ThisRun:
    """Score the pending shards and return the rates.

    Raises:
        GateError: More images than allowed could not be used.
    """
    engine = _engine(request, work, say)
    results: list[ShardResult] = []
    seconds, started = 0.0, time.perf_counter()
    if pending:
        frames = sum(plan.frames_of(number) for number in pending)
        with progress.task("scoring", frames) as task:
            for result in engine.run(plan, pending):
                results.append(result)
                seconds = time.perf_counter() - started  # without the time in which processes exit
                bad += result.bad
                task.advance(result.frames, f"{bad} skipped" if bad else "")
                _require_few(bad, plan.frames, request, work)
    _require_few(bad, plan.frames, request, work)
    frames, busy = sum(result.frames for result in results), sum(result.seconds for result in results)
    return ThisRun(
        engine=request.engine,
        workers=engine.workers or 0,
        threads_per_worker=request.threads_per_worker,
        batch=request.batch,
        shards=len(results),
        frames=frames,
        seconds=round(seconds, 3),
        frames_per_second=round(frames / seconds, 2) if frames else None,
        busy_seconds=round(busy, 3),
        frames_per_second_per_worker=round(frames / busy, 2) if busy else None,
        deaths=engine.deaths,
    )


def _engine(request: ScoreRequest, work: ScoreWork, say: Callable[[str], None]) -> LocalEngine | RayEngine:
    if request.engine == "ray":
        return RayEngine(work, request.workers, request.max_retries, say, request.address)
    workers = request.workers or max(1, usable_cores() // request.threads_per_worker)
    return LocalEngine(work, workers, request.max_retries, say)


def _require_few(bad: int, frames: int, request: ScoreRequest, work: ScoreWork) -> None:
    """Raise ``GateError`` as soon as too many images cannot be used."""
    if bad <= request.max_bad_share * frames:
        return
    folder = ScoreFolder(Path(work.output))
    example = next((row for n in folder.done() for row in read_bad(shard_file(folder.path, n), 1)), None)
    raise GateError(
        f"{bad} of {frames} images could not be used",
        expected=f"at most a share of {request.max_bad_share:g}",
        received=f"{bad / frames:.3g} so far" + (f"; for example, {example['error']}" if example else ""),
        fix="fix the images and call again with `retry_bad=True`, or raise `max_bad_share`: finished shards are kept",
    )
