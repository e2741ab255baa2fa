"""Training: from a data folder and options to a trained run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import torch
from msgspec import UNSET

from kd_export.onnx.halo import require_tileable
from kd_train.data.distillation_images import read_further, require_images
from kd_train.data.golden_images import choose_golden
from kd_train.data.image_records import ImageRecord
from kd_train.models import compact
from kd_train.models.pair import Pair
from kd_train.recipes import Recipe
from kd_train.training.distillation import Source, begin_distillation, distil
from kd_train.training.distilled_teacher import TEACHER_FOLDER
from kd_train.training.extended_run import as_extended, extend
from kd_train.training.free_folder import require_free
from kd_train.training.from_options import (
    build_pair,
    check_options,
    common_config,
    kept_folder,
    kept_teacher,
    recipe_of,
    source_of,
    split_names,
    teacher_config,
)
from kd_train.training.initial_students import learnt_before, open_students, without_past
from kd_train.training.int8_stage import missing_stage, options_of_stage, require_no_stage
from kd_train.training.kept_teacher import FinishedTeacher, KeptTeacher, learnt_otherwise
from kd_train.training.options import TrainOptions
from kd_train.training.profile import Profiler
from kd_train.training.quantization import quantize, require_quantisable
from kd_train.training.resumed_run import as_begun, require_same_options, require_same_run, require_same_teacher
from kd_train.training.run_command import recorded_options
from kd_train.training.run_config import RunConfig
from kd_train.training.run_folder import Run, check_device
from kd_train.training.run_lock import RunLock
from kd_train.training.students import TrainResult, require_effect_of_damage, train_students
from kd_train.training.trained_pair import fuse, teacher_tensors
from kd_train.training.training_images import TrainingImages, known_to_teacher, read_training_images
from kd_train.training.union_images import Member, read_union
from kdx.bundle.teacher_comparison import worse_teacher
from kdx.errors import OptionError, WeightsError
from kdx.folders.apart import require_apart_from_images
from kdx.imaging.image_identity import Identity
from kdx.loading.load import require_outside_bundles
from kdx.progress import SILENT, Progress
from kdx.remarks import Remark
from kdx.storage.json_records import RUN_INDEX

# What the display of progress calls the training of students.
TASK = "training"


def train(
    data: Path, out: Path, options: TrainOptions, progress: Progress = SILENT, *, teacher_only: bool = False
) -> TrainResult:
    """Train a pair on the good images of a folder.

    With the precision INT8, the INT8 stage follows, see :mod:`kd_train.training.quantization`.

    Args:
        data: The data folder.
        out: The run folder.
        options: The options.
        progress: The progress display.
        teacher_only: Whether to stop when the compact teacher is made, which other runs can use
            then: ``teacher_from`` takes this run folder. The history is empty. The backbone is
            compact-m if the options name none.

    Raises:
        DataError: The folder cannot be used.
        GateError: The networks cannot be quantised, and INT8 is asked for.
        OptionError: An option is invalid.
        WeightsError: The teacher's weights were not found or do not fit.
        OutputError: The output exists or would lie in a bundle or a run, or another process trains
            in it.
        CheckpointError: The run cannot be resumed with these images and options.
        TrainingError: The loss is not finite, more images than allowed cannot be used, or a GPU has
            too little memory.
    """

    def read(recipe: Recipe, learnt: Sequence[Identity]) -> TrainingImages:
        return read_training_images(data, options, recipe, progress, learnt=learnt)

    if teacher_only and options.backbone is None and kept_folder(options) is None:
        options = replace(options, backbone=compact.DEFAULT)
    check_options(options)
    profiler = Profiler()
    with RunLock() as run_lock:
        run_lock.take(out)
        where = str(data.absolute())
        result = _train(where, read, out, options, progress, run_lock, profiler, teacher_only=teacher_only)
        if teacher_only or options.precision == "fp32":
            result = replace(result, remarks=[*result.remarks, *missing_stage(result.run)])
        else:
            of_stage, replaced = options_of_stage(result.run, replace(options, force=False))
            stage = quantize(result.run, of_stage, data, run_lock, progress, profiler)
            result = replace(result, int8=stage, remarks=[*result.remarks, *replaced])
        if not options.profile:
            return result
        profile = profiler.profile(str(check_device(options.device)), torch.get_num_threads(), options.workers)
        profile.write(result.run.path)
        return replace(result, profile=profile)


def distil_union(
    members: Mapping[str, Member], out: Path, options: TrainOptions, progress: Progress = SILENT
) -> TrainResult:
    """Make a compact teacher that learns from the good images of several products.

    Images that one of the products holds out are held out from the teacher. See
    :func:`.read_union` for the weight of each product.

    Args:
        members: The data folder and the options of each product's own training, by its name.
        out: The run folder, which ``teacher_from`` of the products' trainings takes.
        options: The options of the teacher.
        progress: The progress display.

    Raises:
        DataError: A folder cannot be used, or the products' images have different sizes or colours.
        KdxError: As :func:`train`.
    """
    check_options(options)
    with RunLock() as run_lock:
        run_lock.take(out)
        return _train(
            "",
            lambda *_: read_union(members, progress),
            out,
            options,
            progress,
            run_lock,
            Profiler(),
            teacher_only=True,
        )


def _train(
    data: str,
    read: Callable[[Recipe, Sequence[Identity]], TrainingImages],
    out: Path,
    options: TrainOptions,
    progress: Progress,
    run_lock: RunLock,
    profiler: Profiler,
    *,
    teacher_only: bool,
) -> TrainResult:
    require_free(out, resume=options.resume, force=options.force, precision=options.precision)
    require_apart_from_images("the run", out, [Path(each) for each in (data, *options.extra_images) if each])
    device = check_device(options.device)
    began = Run(out).config if options.resume and (out / RUN_INDEX).exists() else None
    options = as_begun(out, without_past(out, options, began), began)
    existing = kept_teacher(options)
    recipe = recipe_of(options, existing)
    if teacher_only:
        _require_teacher_to_make(existing, recipe)
    require_no_stage(out, options)
    if began is None:
        require_outside_bundles(out.absolute().parent, "out", out)
    begun = began if began is None or teacher_only else as_extended(Run(out), options)
    if begun is not None:
        # First: with other options, the images or the weights may be missing.
        require_same_options(out, begun, options, recipe)
        if begun.command == "distil" and not teacher_only:  # from now on, this command continues it
            begun = msgspec.structs.replace(begun, command="train", options=recorded_options(options))
        if begun.distilled is not None and existing is None and (out / TEACHER_FOLDER).is_dir():
            weights_given, extra = split_names(options.weights), bool(options.extra_images)
            require_same_teacher(out, begun, weights_given, extra_images=extra)
    students = open_students(out, options, begun)
    if begun is None or begun.distilled is None:
        require_images([Path(each) for each in options.extra_images])
    with profiler.stage("images"):
        learnt = learnt_before(students, begun)
        images = read(recipe, learnt)
    with profiler.stage("networks"):
        source, pair, recipe, weights = _build(out, options, recipe, existing, begun)
    further, further_remarks = read_further(
        [Path(each) for each in options.extra_images] if isinstance(source, Source) else [],
        images.spec,
        images.bad,
        memory_mib=options.memory_mib,
        workers=options.workers,
        progress=progress,
    )
    if options.tile is not None:
        require_tileable(pair.spec, (options.tile, options.tile), recipe.size, recipe.resize_to)
    # Read before an earlier run is replaced, which may be the one that holds it.
    kept = source.fill(pair) if isinstance(source, KeptTeacher) else None
    if students is not None:
        students.fill(pair, options.method, recipe)
    golden = choose_golden(images.folder, images.held_out, images.spec, tiles=options.tile is not None)
    config = RunConfig(
        **common_config(data, options, recipe, images, learnt),
        **teacher_config(source, images, further),
        method=options.method,
        weights=weights,
        pair_spec=pair.spec,
        mean=pair.mean,
        std=pair.std,
        golden=list(golden),
        command="distil" if teacher_only else "train",
        options=recorded_options(options),
        init=UNSET if students is None else students.record,
    )
    # A backbone that cannot be deployed fails here: before hours of training, and before an earlier
    # run is replaced.
    detector = fuse(config, pair)
    if not teacher_only:
        require_effect_of_damage(config, pair)
    if options.precision == "int8":
        require_quantisable(detector)
    run = _begin(out, config, golden, run_lock, begun, resume=options.resume, force=options.force)
    if isinstance(source, KeptTeacher) and kept is not None:
        distilled = source.config.distilled
        run.keep_teacher(kept, distilled.used_elsewhere() if distilled else None)
    if isinstance(source, Source) and not run.config.teacher:
        distilled = distil(
            source,
            pair.teacher,
            begin_distillation(run.path / TEACHER_FOLDER, run.config, source, pair.teacher, run_lock),
            images.train_set,
            images.held_out_set,
            further,
            images.parts,
            device=device,
            memory_mib=options.memory_mib,
            progress=progress,
            profiler=profiler,
        )
        run.keep_teacher(teacher_tensors(pair), distilled)
    remarks = [
        *images.remarks,
        *further_remarks,
        *(learnt_otherwise(source, config) if isinstance(source, KeptTeacher) else []),
        *_remarks_on_teacher(config.teacher_learnt or [], run, images.held_out),
    ]
    if teacher_only:
        return TrainResult(run, [], images.bad.reasons, remarks)
    return train_students(
        pair,
        run,
        images.train_set,
        images.held_out_set,
        options,
        device=device,
        bad=images.bad,
        remarks=remarks,
        task=TASK,
        progress=progress,
        profiler=profiler,
    )


def _require_teacher_to_make(kept: KeptTeacher | None, recipe: Recipe) -> None:
    if recipe.teacher_from and kept is None:
        return
    raise OptionError(
        "there is no compact teacher to make",
        expected=f"`backbone` {', '.join(compact.NAMES)}, and a pretrained network as `teacher_from`",
        received=str(kept.path) if kept else ", ".join(recipe.backbones),
    )


def _remarks_on_teacher(learnt: list[Identity], run: Run, held_out: list[ImageRecord]) -> list[Remark]:
    """Return remarks on a compact teacher; none on another one.

    Args:
        learnt: The hashes of the images from which it learnt.
        run: The run that uses it.
        held_out: The held-out images.
    """
    if run.config.distilled is None:
        return []
    trained = set(run.config.trained_on or [])  # copies of these are named already
    elsewhere = [each for each in learnt if each not in trained]
    return [*worse_teacher(run.config.distilled.comparisons), *known_to_teacher(elsewhere, held_out)]


def _build(
    out: Path, options: TrainOptions, recipe: Recipe, existing: KeptTeacher | None, begun: RunConfig | None
) -> tuple[Source | KeptTeacher | FinishedTeacher | None, Pair, Recipe, str]:
    """Build the untrained pair.

    Returns:
        Where a compact teacher comes from, or None for another one; the pair; the recipe, complete
        with the heads of compact networks; and a text that says where the teacher's weights came
        from.
    """
    try:
        source = source_of(options, recipe, existing, begun)
        if source is not None:
            recipe = msgspec.structs.replace(recipe, heads=source.heads)
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
    return source, pair, recipe, source.weights if source else weights


def _begin(
    out: Path,
    config: RunConfig,
    golden: dict[str, bytes],
    run_lock: RunLock,
    begun: RunConfig | None,
    *,
    resume: bool,
    force: bool,
) -> Run:
    """Begin a run; or return the run that is resumed, in the configuration ``begun``."""
    run_lock.take(out)  # another process may have begun a run since this one looked
    is_run = (out / RUN_INDEX).exists()
    if not resume or not is_run:
        return Run.create(out, config, golden, run_lock, force=force and is_run)
    run = Run(out)
    require_same_run(out, begun or run.config, config)
    return run if begun is None else extend(run, begun)
