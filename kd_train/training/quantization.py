"""The INT8 stage of a run: its teacher is quantised, and its students learn again from that one.

Student-teacher detection measures a difference to the teacher. What rounding changes in the teacher
while the student learns is no difference, and the student learns with its own rounding. So the
scores of INT8 networks that learnt this way may differ from FP32's, and decide as well.

The stage is a run folder in the run folder. The scales of the activations are fixed before it
begins: they come from the activations of the trained FP32 networks on good images that were trained
on, and on the same images with synthetic defects, see :mod:`kd_export.precision.int8_plan`. The
steps of the weights follow the weights.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
from msgspec import UNSET
from numpy.typing import NDArray

from kd_export.graph import FusedDetector
from kd_export.graph.full_precision import without_tf32
from kd_export.graph.int8 import Int8Plan
from kd_export.onnx.onnx_export import export_onnx
from kd_export.precision.int8_plan import plan_int8
from kd_train.data.gate_images import DrawnDefects
from kd_train.data.image_records import BadImages, ImageRecord, scan_images
from kd_train.data.image_set import ImageSet
from kd_train.models.quantized_pair import QuantizedPair
from kd_train.recipes import check_recipe
from kd_train.training.checkpoints import Checkpoint
from kd_train.training.free_folder import require_free
from kd_train.training.from_options import check_options
from kd_train.training.options import TrainOptions
from kd_train.training.profile import Profiler
from kd_train.training.run_config import NEWEST_SCHEMA, Quantized, RunConfig, current_versions
from kd_train.training.run_folder import Run, check_device
from kd_train.training.run_lock import RunLock
from kd_train.training.students import TrainResult, train_students
from kd_train.training.trained_pair import fuse, load_pair, teacher_tensors
from kdx.errors import CheckpointError, DataError
from kdx.folders.data_folder import require_good
from kdx.progress import SILENT, Progress
from kdx.remarks import shorten
from kdx.storage.json_records import INT8_FOLDER, RUN_INDEX, now
from kdx.text import number_of

# Good images that set the scales, and the bytes that they and the synthetic defects may take. Up to
# three defects are drawn on each.
_MOST_IMAGES, _MOST_BYTES, _WITH_DEFECTS = 64, 2**30, 4
# Other defects than those of the gate, which judges these scales.
_STREAM = 1
# What the display of progress calls the training.
TASK = "INT8 students"
# Unless the options say otherwise.
_EPOCHS, _LEARNING_RATE = 8, 1e-3


def quantize_run(
    path: Path, options: TrainOptions, data: Path | None = None, progress: Progress = SILENT
) -> TrainResult:
    """Train a finished run's students as INT8 networks, from its quantised teacher.

    The result is a run folder in the run folder, see :meth:`.Run.int8`.

    Args:
        path: The finished run folder.
        options: Epochs, peak of the learning rate, headroom, and what does not change the result;
            ``resume`` and ``force`` concern the stage alone.
        data: The data folder now; None for its place at training.
        progress: The progress display.

    Raises:
        CheckpointError: The run is not finished or has INT8 networks already, or the stage cannot
            be resumed with these options.
        DataError: The folder does not contain the images of the training.
        GateError: An operation of the networks cannot be quantised; it is named.
        OptionError: An option is invalid.
        OutputError: The run has a stage already, or another process trains in the run.
        TrainingError: The loss is not finite, or more images than allowed cannot be used.
    """
    check_options(options)
    with RunLock() as run_lock:
        run_lock.take(path)
        return quantize(Run(path), options, data, run_lock, progress)


def quantize(
    run: Run,
    options: TrainOptions,
    data: Path | None,
    run_lock: RunLock,
    progress: Progress = SILENT,
    profiler: Profiler | None = None,
) -> TrainResult:
    """Train the INT8 stage of a run whose lock is held; see :func:`quantize_run`."""
    profiler = profiler or Profiler()
    if run.config.quantized is not UNSET:
        raise CheckpointError(
            f"the networks of '{run.path}' are INT8 already", fix=f"name the run folder around it, '{run.path.parent}'"
        )
    run.require_finished()
    folder = run.path / INT8_FOLDER
    require_free(folder, resume=options.resume, force=options.force, otherwise="")
    device = check_device(options.device)
    pair, checkpoint = load_pair(run)
    detector = fuse(run.config, pair)
    wanted = _config(run, checkpoint, options, data)
    is_begun = (folder / RUN_INDEX).exists()
    begun = Run(folder) if is_begun and options.resume else None
    if begun is not None:
        _require_same(begun, wanted)
        data = data or Path(begun.config.data)  # the stage may have been begun with images that had moved
    bad = BadImages(options.max_bad_images)
    images, train, held_out = _images(run.config, options, data, bad, progress)
    train_set = images.subset(train)
    if begun is None:
        with profiler.stage("INT8 students: scales"):
            quantized = _with_plan(wanted, detector, train_set, progress)
        quantised = QuantizedPair(detector, quantized.plan)  # before an earlier stage is replaced
        config = msgspec.structs.replace(wanted, quantized=quantized)
        golden = {path.name: path.read_bytes() for path in run.golden_files()}
        begun = Run.create(folder, config, golden, run_lock, force=is_begun)
    else:
        assert begun.config.quantized is not UNSET
        quantised = QuantizedPair(detector, begun.config.quantized.plan)
    begun.keep_teacher(teacher_tensors(quantised), run.config.distilled)
    with without_tf32():
        return train_students(
            quantised,
            begun,
            train_set,
            images.subset(held_out),
            options,
            device=device,
            bad=bad,
            remarks=[],
            task=TASK,
            progress=progress,
            profiler=profiler,
            lower_rate=f"quantise again: {_again(run.path, begun.config.recipe.learning_rate)}",
        )


def _again(path: Path, rate: float) -> str:
    """Return the command that trains a stage again at a lower learning rate than this one."""
    return shlex.join(["kdx", "quantize", str(path), "--force", "--learning-rate", f"{rate / 10:g}"])


def require_quantisable(detector: FusedDetector) -> None:
    """Check before a training that its networks can be quantised.

    Args:
        detector: The fused detector of the untrained pair.

    Raises:
        GateError: An operation of the networks cannot be quantised; it is named.
    """
    spec = detector.input_spec
    shape = 1, spec.height, spec.width, spec.channels
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    QuantizedPair(detector, _planned(detector, noise, 1.0))


def _config(run: Run, checkpoint: Checkpoint, options: TrainOptions, data: Path | None) -> RunConfig:
    """Return the configuration of the stage, without a plan."""
    recipe = msgspec.structs.replace(
        run.config.recipe,
        epochs=_EPOCHS if options.epochs is None else options.epochs,
        optimiser="adam",
        learning_rate=_LEARNING_RATE if options.learning_rate is None else options.learning_rate,
        momentum=0.0,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        schedule="one-cycle",
        checkpoint="last",
        mixed_precision=False,  # INT8 students compute what the graph does
    )
    check_recipe(recipe)
    return msgspec.structs.replace(
        run.config,
        schema=NEWEST_SCHEMA,
        recipe=recipe,
        data=run.config.data if data is None else str(data.absolute()),
        teacher="",
        teacher_sha256="",
        cycles=UNSET,
        init=UNSET,
        quantized=Quantized(
            checkpoint_sha256=checkpoint.sha256,
            teacher_sha256=run.config.teacher_sha256,
            epoch=checkpoint.epoch,
            headroom=options.headroom,
            images=0,
            defects=0,
            plan=Int8Plan({}),
        ),
        versions=dict(current_versions()),
        created=now(),
    )


def _require_same(begun: Run, wanted: RunConfig) -> None:
    """Check that the stage is resumed with the checkpoint and the options that it began with."""
    again = f"replace it: {shlex.join(['kdx', 'quantize', str(begun.path.parent), '--force'])}"
    if begun.config.quantized is UNSET:
        raise CheckpointError(f"'{begun.path}' cannot be resumed: its networks are FP32", fix=again)
    before, now_ = _decisions(begun.config), _decisions(wanted)
    changed = [name for name in before if before[name] != now_[name]]
    if changed:
        raise CheckpointError(
            f"'{begun.path}' cannot be resumed: {', '.join(changed)} changed since it began",
            expected=", ".join(f"{name} {str(before[name])[:16]}" for name in changed),
            received=", ".join(f"{name} {str(now_[name])[:16]}" for name in changed),
            fix=again if "checkpoint" in changed else f"{begun.how_to_continue}; or {again}",
        )


def _decisions(config: RunConfig) -> Mapping[str, object]:
    assert config.quantized is not UNSET
    return {
        "checkpoint": config.quantized.checkpoint_sha256,
        "epochs": config.recipe.epochs,
        "learning_rate": config.recipe.learning_rate,
        "headroom": config.quantized.headroom,
    }


def _images(
    config: RunConfig, options: TrainOptions, data: Path | None, bad: BadImages, progress: Progress
) -> tuple[ImageSet, list[ImageRecord], list[ImageRecord]]:
    """Return the images of a training, found again by their content, and both sides of them.

    Raises:
        DataError: The folder does not exist, or does not contain all of them.
        TrainingError: More images than allowed cannot be read.
    """
    where = data or Path(config.data)
    folder = config.open_data(data, "data", progress)
    records = {record.sha256: record for record in scan_images(require_good(folder), bad, progress)}
    wanted = [*config.train_images.items(), *config.validation_images.items()]
    missing = {sha256: name for name, sha256 in wanted if sha256 not in records}
    if missing:
        count = len({sha256 for _, sha256 in wanted})
        raise DataError(
            f"'{where}' does not contain all good images of the training",
            expected=number_of(count, "[image|images]"),
            received=f"{count - len(missing)} of them, without {shorten(missing.values())}",
            fix="name the folder of the training data: `data`; an image that was changed is another one",
        )
    sides = [[records[sha256] for sha256 in side.values()] for side in (config.train_images, config.validation_images)]
    images = ImageSet(
        [record for side in sides for record in side],
        config.input,
        bad,
        memory_mib=options.memory_mib,
        workers=options.workers,
        tiles=config.tile is not None,
        progress=progress,
    )
    return images, sides[0], sides[1]


def _with_plan(config: RunConfig, detector: FusedDetector, images: ImageSet, progress: Progress) -> Quantized:
    """Return the record of the quantisation, with the steps of all activations."""
    assert config.quantized is not UNSET
    spec = images.spec
    most = _MOST_BYTES // (_WITH_DEFECTS * spec.height * spec.width * spec.channels)
    good = [images[index] for index in images.spread(min(_MOST_IMAGES, max(2, most)))]
    defects = list(DrawnDefects(good, config.seed, spec, _STREAM))
    with progress.task("scales of INT8", 1) as task:
        plan = _planned(detector, np.stack([*good, *defects]), config.quantized.headroom)
        task.advance()
    return msgspec.structs.replace(config.quantized, plan=plan, images=len(good), defects=len(defects))


def _planned(detector: FusedDetector, images: NDArray[np.uint8], headroom: float) -> Int8Plan:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(detector, path, max_batch=1, metadata={})
        return plan_int8(onnx.load(path), images, headroom=headroom, clip_outliers=True)
