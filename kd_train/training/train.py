"""Training: from a data folder and options to a trained run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kd_export.onnx.halo import require_tileable
from kd_train.data.damage import StudentDamage
from kd_train.data.distillation_images import read_further
from kd_train.data.golden_images import choose_golden
from kd_train.data.image_records import BadImages, ImageRecord, choose_input, scan_images, split_images
from kd_train.data.image_set import ImageSet
from kd_train.data.odd_images import handle_odd_images
from kd_train.data.parts import parts_of
from kd_train.datasets import open_data
from kd_train.training.checkpoints import EpochRecord
from kd_train.training.distillation import distil, open_source
from kd_train.training.from_options import build_pair, check_options, recipe_of, seed_everything, split_names
from kd_train.training.options import TrainOptions
from kd_train.training.resumed_run import require_same_options, require_same_run
from kd_train.training.run_folder import SCHEMA, TRAINING_PACKAGES, Run, RunConfig, check_device
from kd_train.training.run_lock import RunLock
from kd_train.training.trained_pair import fuse, teacher_tensors
from kd_train.training.trainer import Trainer
from kdx import __version__
from kdx.errors import OutputError, WeightsError
from kdx.folders.copies import across, between, within
from kdx.folders.data_folder import require_good
from kdx.progress import SILENT, Progress
from kdx.remarks import Remark
from kdx.runtime.machine import package_versions
from kdx.storage.files import hash_of_hashes
from kdx.storage.json_records import RUN_INDEX, now


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        run: The run folder.
        history: The records of all epochs.
        bad_images: The images that could not be used, with the reason for each.
        remarks: The remarks on images that were left out or are unusual.
        resumed_after: The epoch after which a resumed run continued; 0 if it began with the first.
        trained_again: The number of later epochs that were trained again because the optimiser's
            state had not been written.
    """

    run: Run
    history: list[EpochRecord]
    bad_images: dict[Path, str]
    remarks: list[Remark]
    resumed_after: int = 0
    trained_again: int = 0


def train(data: Path, out: Path, options: TrainOptions, progress: Progress = SILENT) -> TrainResult:
    """Train a pair on the good images of a folder.

    Raises:
        DataError: The folder cannot be used.
        OptionError: An option is invalid.
        WeightsError: The teacher's weights were not found or do not fit.
        OutputError: The output exists, or another process trains in it.
        CheckpointError: The run cannot be resumed with these images and options.
        TrainingError: The loss is not finite, or more images than allowed cannot be used.
    """
    check_options(options)
    with RunLock() as run_lock:
        run_lock.take(out)
        return _train(data, out, options, progress, run_lock)


def _train(data: Path, out: Path, options: TrainOptions, progress: Progress, run_lock: RunLock) -> TrainResult:
    if (out / RUN_INDEX).exists() and not options.resume and not options.force:
        raise OutputError(
            f"'{out}' holds a run already",
            fix="pass `resume=True` to continue it, `force=True` to replace it, or choose another `out`",
        )
    if out.exists() and not (out / RUN_INDEX).exists() and any(out.iterdir()):
        raise OutputError(f"'{out}' exists and is not a run folder", fix="choose another `out`")
    device = check_device(options.device)
    recipe = recipe_of(options)
    begun = Run(out).config if options.resume and (out / RUN_INDEX).exists() else None
    if begun is not None:
        # First: with other options, the images or the weights may be missing.
        require_same_options(out, begun, options, recipe)
    folder = open_data(data, options.category, options.folder_options, progress=progress)
    bad = BadImages(options.max_bad_images)
    # A published data set is used as it is.
    odd = "keep" if folder.dataset and options.odd_images == "stop" else options.odd_images
    scanned = scan_images(require_good(folder), bad, progress)
    records, odd_remarks = handle_odd_images(scanned, odd, channels=options.channels)
    spec = choose_input(
        records,
        recipe.crop_from or recipe.image_size,
        tile=options.tile,
        channels=options.channels,
        sixteen_bit_range=options.sixteen_bit_range,
    )
    image_set = ImageSet(
        records,
        spec,
        bad,
        memory_mib=options.memory_mib,
        workers=options.workers,
        tiles=options.tile is not None,
        progress=progress,
    )
    usable = [record.path for record in image_set.records]
    parts = parts_of(folder, usable, group_by=options.group_by, table=options.parts)
    train_records, held_out = split_images(
        image_set.records,
        validation_fraction=recipe.validation_fraction,
        train_fraction=options.train_fraction,
        seed=options.seed,
        parts=parts.by_image,
    )
    every = [(record.path, record.identity) for record in image_set.records]
    sides = [[(record.path, record.identity) for record in side] for side in (train_records, held_out)]
    copies = [*within(every), *across(*sides), *between(folder, every, progress)]
    try:
        seed_everything(options.seed)  # random weights of a source too
        source = open_source(recipe, split_names(options.weights)) if recipe.teacher_from else None
        recipe = recipe if source is None else msgspec.structs.replace(recipe, heads=source.heads)
        pair, weights = build_pair(options, recipe)
    except WeightsError as error:
        if begun is None:
            raise
        raise WeightsError(
            f"'{out}' cannot be resumed with these weights: {error.message}",
            expected=f"the `weights` that it began with: {begun.weights}",
            received=options.weights,
            fix=f"give the options that it began with; {error.fix}",
        ) from error
    further, further_remarks = read_further(
        [Path(each) for each in options.extra_images],
        spec,
        bad,
        memory_mib=options.memory_mib,
        workers=options.workers,
        progress=progress,
    )
    if options.tile is not None:
        require_tileable(pair.spec, (options.tile, options.tile), recipe.size, recipe.resize_to)
    golden = choose_golden(folder, held_out, spec, tiles=options.tile is not None)
    config = RunConfig(
        schema=SCHEMA,
        method=options.method,
        weights=weights if source is None else source.weights,
        source_sha256="" if source is None else source.sha256,
        extra_sha256=hash_of_hashes(record.sha256 for record in further.records) if further else "",
        pair_spec=pair.spec,
        recipe=recipe,
        input=spec,
        tile=options.tile,
        frame=_frame(image_set.records) if options.tile else None,
        mean=pair.mean,
        std=pair.std,
        seed=options.seed,
        data=str(data),
        dataset=folder.dataset,
        category=folder.category,
        subfolders=options.subfolders,
        good_folders=options.good_folders,
        odd_images=options.odd_images,
        train_images=_by_name(train_records, folder.root),
        validation_images=_by_name(held_out, folder.root),
        trained_on=[record.identity for record in train_records],
        data_sha256=hash_of_hashes(record.sha256 for record in train_records),
        golden=list(golden),
        versions={"kdx": __version__, **package_versions(TRAINING_PACKAGES)},
        created=now(),
    )
    # A backbone that cannot be deployed fails here: before hours of training, and before an earlier
    # run is replaced.
    fuse(config, pair)
    run = _begin(out, config, golden, run_lock, resume=options.resume, force=options.force)
    good, kept = image_set.subset(train_records), image_set.subset(held_out)
    if source is not None and not run.config.teacher:
        distilled = distil(
            source,
            pair.teacher,
            run,
            good,
            kept,
            further,
            run_lock,
            device=device,
            memory_mib=options.memory_mib,
            progress=progress,
        )
        run.keep_teacher(teacher_tensors(pair), distilled)
    trainer = Trainer(
        pair,
        run,
        good,
        kept,
        device=device,
        memory_mib=options.memory_mib,
        damage=_damage(config),
        progress=progress,
    )
    if options.resume:
        trainer.resume()
    history = trainer.fit()
    return TrainResult(
        run,
        history,
        bad.reasons,
        [*folder.remarks, *odd_remarks, *parts.remarks, *copies, *further_remarks],
        trainer.resumed_after,
        trainer.trained_again,
    )


def _damage(config: RunConfig) -> StudentDamage | None:
    """Return the damage that the students see, or None."""
    if not config.recipe.damage:
        return None
    return StudentDamage(config.recipe.damage, config.seed, config.mean, config.std, colour=config.input.channels == 3)


def _by_name(records: Sequence[ImageRecord], root: Path) -> dict[str, str]:
    """Return hashes by file name, or by path in the data folder if names recur."""
    names = {record.path.name for record in records}
    if len(names) == len(records):
        return {record.path.name: record.sha256 for record in records}
    return {os.path.relpath(record.path, root).replace(os.sep, "/"): record.sha256 for record in records}


def _frame(records: Sequence[ImageRecord]) -> tuple[int, int] | None:
    """Return the images' height and width if all have the same, otherwise None."""
    sizes = {(record.height, record.width) for record in records}
    return next(iter(sizes)) if len(sizes) == 1 else None


def _begin(
    out: Path, config: RunConfig, golden: dict[str, bytes], run_lock: RunLock, *, resume: bool, force: bool
) -> Run:
    run_lock.take(out)  # another process may have begun a run since this one looked
    is_run = (out / RUN_INDEX).exists()
    if not resume or not is_run:
        return Run.create(out, config, golden, run_lock, force=force and is_run)
    run = Run(out)
    require_same_run(out, run.config, config)
    return run
