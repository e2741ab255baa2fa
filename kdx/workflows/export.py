"""From a run folder to a bundle: the checkpoint is loaded, fused, exported and checked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from kdx.bundle.bundle import Bundle
from kdx.bundle.index import decode_index, read_index
from kdx.bundle.manifest import INDEX, LEVEL, ROI, SIGNATURE, Int8Students, Manifest
from kdx.bundle.variants import OWN_THRESHOLD
from kdx.errors import BundleError, CheckpointError, DataError, OptionError
from kdx.folders.apart import require_apart_from_images
from kdx.folders.image_search import folders
from kdx.imaging.field_of_view import Crop
from kdx.imaging.image_files import MAX_PIXELS
from kdx.imaging.images import MOST_INPUT_PIXELS, MOST_SIDE, ChannelOrder, InputSpec
from kdx.imaging.tiling import TileRequest, Tiling
from kdx.loading.load import require_outside_bundles
from kdx.progress import Progress
from kdx.remarks import Remark, remark
from kdx.storage.files import refuse_existing
from kdx.workflows.packages import needs

if TYPE_CHECKING:
    from kd_export.graph import FusedDetector
    from kd_train.models.pair import Pair
    from kd_train.training.run_folder import Run
    from kdx.verification.certificate import Certificate
    from kdx.verification.held_out import HeldOut

# The shortest side of images, in pixels.
_LEAST_SIDE = 8
# The default of kdx calibrate.
_RATE = 0.01


def require_sizes(input_size: tuple[int, int] | None, frame: tuple[int, int] | None, *, bands: bool = False) -> None:
    """Check the sizes of a camera's images and of its large frames, ``(height, width)``.

    Args:
        input_size: The size of images.
        frame: The size of frames.
        bands: Whether frames are read in bands, and may be larger.

    Raises:
        OptionError: A side is too short or too long, or there are too many pixels.
    """
    for name, size in (("input_size", input_size), ("frame", frame)):
        if size is None:
            continue
        received = f"{size[0]}x{size[1]}"
        if not all(_LEAST_SIDE <= side <= MOST_SIDE for side in size):
            sides = f"{_LEAST_SIDE} to {MOST_SIDE} a side"
            raise OptionError(f"`{name}` is out of range", expected=sides, received=received)
        if name == "input_size" and size[0] * size[1] > MOST_INPUT_PIXELS:
            pixels = f"at most {MOST_INPUT_PIXELS:,} pixels"
            raise OptionError(f"`{name}` is out of range", expected=pixels, received=received)
        if name == "frame" and size[0] * size[1] > MAX_PIXELS and not bands:
            raise OptionError(
                "frames of this size are larger than the images that are read whole",
                expected=f"at most {MAX_PIXELS:,} pixels",
                received=received,
                fix="have them read in bands of rows, from TIFF files: `bands=True`",
            )


def lost_with(bundle: Path, kept: Collection[str] | None = None) -> list[Remark]:
    """Return a remark on what a bundle holds that the one in its place does not; before that.

    Args:
        bundle: The bundle that is replaced, if there is one.
        kept: The files of a calibrated bundle in its place that are not counted as gone; only a
            threshold that a person set is gone with it. None for an export, which has none.
    """
    if not (bundle / INDEX).is_file():
        return []
    try:
        manifest = decode_index(bundle, read_index(bundle))
    except BundleError:  # damaged, and replaced whatever it held
        return []
    threshold = manifest.threshold
    by_hand = threshold is not None and threshold.reason is not None
    held = []
    if threshold is not None and (kept is None or by_hand):
        held.append(f"threshold {threshold.score:.4g}{' set by hand' if by_hand else ''}")
    maps = ((ROI, "region of interest"), (LEVEL, "level map"))
    held += [text for name, text in maps if name in manifest.files and name not in (kept or ())]
    held += ["signature"] if (bundle / SIGNATURE).is_file() else []
    held += [f"engine {folder.name}" for folder in folders(bundle / "engines")]
    undecided = ", and parts are undecided until kdx calibrate" if threshold and kept is None else ""
    return remark("gone_with_replaced", f"[thing|things] of the replaced bundle [is|are] gone{undecided}", held)


def export_run(
    run_path: Path,
    bundle: Path,
    *,
    progress: Progress,
    which: str | None = None,
    input_size: tuple[int, int] | None = None,
    channel_order: ChannelOrder = "rgb",
    crop: Crop | None = None,
    max_batch: int | None = None,
    tiles: TileRequest | None = None,
    precisions: tuple[str, ...] = ("fp32",),
    calibration_data: Path | None = None,
    evaluation_images: Sequence[tuple[Path, bool]] = (),
    force: bool = False,
) -> tuple[Bundle, Certificate, dict[str, str]]:
    """Load a run's checkpoint, fuse it, and export the bundle.

    INT8 takes the students of the run's INT8 stage, or quantises its FP32 students where there is
    none.

    Raises:
        CheckpointError: The stage is not finished, or came from another checkpoint.
        KdxError: As :func:`kd_export.bundle_export.export_bundle`.
    """
    with needs("train,cpu", "exporting"):
        from kd_export.bundle_export import export_bundle
        from kd_train.training.run_folder import Run
        from kd_train.training.run_images import training_files
        from kd_train.training.tiled_detector import require_large_enough
        from kd_train.training.trained_pair import load_pair

    tiles = tiles or TileRequest()
    require_sizes(input_size, tiles.frame, bands=tiles.bands)
    run = Run(run_path)
    if run.config.quantized is not UNSET:
        raise CheckpointError(
            f"'{run_path}' is the INT8 stage of a run", fix=f"export the run around it, '{run_path.parent}'"
        )
    stage = run.int8(which) if "int8" in precisions else None
    if channel_order == "bgr" and run.config.input.channels == 1:
        raise OptionError("`channel_order=bgr` would change nothing: the run is mono", fix="leave it out")
    require_apart_from_images("the bundle", bundle, [Path(run.config.data)] if run.config.data else [])
    require_outside_bundles(bundle.parent, "bundle", bundle)
    refuse_existing(bundle, force=force and (bundle / INDEX).is_file())  # before minutes of work
    pair, checkpoint = load_pair(run, which)
    fused, tiling = _fused(run, pair, tiles, input_size, channel_order, crop, max_batch)
    held_out, missing = _held_out(run, fused.input_spec, tiling, precisions, calibration_data)
    provenance, students, calibration_images = run.provenance(checkpoint), None, []
    if stage is not None and "int8" not in missing:
        students, origin = _int8_students(stage, fused)
        provenance = msgspec.structs.replace(provenance, int8=origin)
    elif "int8" in precisions and "int8" not in missing:
        try:
            calibration_images = training_files(run, calibration_data)
            if tiling is not None:
                require_large_enough(calibration_images, fused.input_spec)
        except DataError as error:
            missing["int8"] = _said(error)
    result, certificate, refused = export_bundle(
        fused,
        bundle,
        method=run.config.method,
        golden_images=run.golden_files(),
        training_images=run.config.known_images().images,
        left_out=[] if run.config.left_out is UNSET else run.config.left_out,
        provenance=provenance,
        max_batch=tiling.batch if tiling else 32 if max_batch is None else max_batch,
        tiling=tiling,
        precisions=[each for each in precisions if each not in missing],
        calibration_images=calibration_images,
        held_out=held_out,
        evaluation_images=evaluation_images,
        int8_students=students,
        force=force,
        progress=progress,
    )
    if stage is not None and students is not None and "int8" in refused:
        command = stage.quantize_command("--force", 2 * stage.config.recipe.epochs)
        advice = "students that decide worse than FP32 may need to learn longer"
        refused["int8"] += f"; {advice}: {command}, see the page 'INT8 by training' of the documentation"
    return result, certificate, {**missing, **refused}


def _fused(
    run: Run,
    pair: Pair,
    tiles: TileRequest,
    input_size: tuple[int, int] | None,
    channel_order: ChannelOrder,
    crop: Crop | None,
    max_batch: int | None,
) -> tuple[FusedDetector, Tiling | None]:
    """Return the detector of a camera's images, or of the tiles of its frames and their plan."""
    from kd_train.training.tiled_detector import are_tiles_asked, fuse_tiles
    from kd_train.training.trained_pair import fuse

    if not are_tiles_asked(run.config, tiles):
        return fuse(run.config, pair, run.input_for(input_size, channel_order, crop)), None
    if input_size is not None:
        raise OptionError("`input_size` is for whole images", fix="give `frame` and `tile`")
    if crop is not None or run.config.input.crop is not UNSET:
        raise OptionError(
            "`crop` is for whole images, and tiles cover whole frames", fix="leave out `frame` and `tile`"
        )
    if max_batch is not None:
        raise OptionError("`max_batch` is for whole images", fix="give `tile_batch`")
    return fuse_tiles(run, pair, tiles, channel_order)


def _int8_students(stage: Run, fp32: FusedDetector) -> tuple[FusedDetector, Int8Students]:
    """Return the detector of a run's INT8 stage for the images of the FP32 one, and its origin."""
    from kd_train.training.trained_pair import fuse, load_pair

    pair, checkpoint = load_pair(stage)
    detector = fuse(stage.config, pair, fp32.input_spec)
    return detector if fp32.border_weights else detector.without_border_weights(), stage.int8_origin(checkpoint)


def _held_out(
    run: Run, spec: InputSpec, tiling: Tiling | None, precisions: Collection[str], data: Path | None
) -> tuple[HeldOut | None, dict[str, str]]:
    """Return the images on which BF16 and INT8 are judged, or why those are refused."""
    from kd_train.data.gate_images import DrawnDefects, GoodImages
    from kd_train.training.run_images import held_out_files
    from kd_train.training.tiled_detector import require_large_enough
    from kdx.verification.held_out import HeldOut

    asked = OWN_THRESHOLD.intersection(precisions)
    if not asked:
        return None, {}
    try:
        paths = held_out_files(run, data)
        if tiling is not None:
            require_large_enough(paths, spec)
    except DataError as error:
        reason = f"it is judged on images that were held out of training: {_said(error)}"
        return None, dict.fromkeys(sorted(asked), reason)
    good = GoodImages(paths, spec, tiling)
    return HeldOut(good, DrawnDefects(good, run.config.seed, spec), good.frames), {}


def _said(error: DataError) -> str:
    return "; ".join(part for part in (error.message, error.fix) if part)


def seam_remarks(manifest: Manifest, overlap: int | None) -> list[Remark]:
    """Return a remark on tiles whose maps differ where they meet, with what helps.

    Args:
        manifest: The manifest of the exported bundle.
        overlap: The overlap that was asked for; None for the one that these networks need.
    """
    tiling = manifest.tiling
    if tiling is None or not tiling.shows_seams:
        return []
    # An overlap that leaves nothing to blend between the margins has made them narrower.
    scale = manifest.input.height // manifest.map_size[0]
    is_narrowed = overlap is not None and tiling.overlap - 2 * tiling.halo < 2 * scale
    fix = (
        "leave out `overlap`, and what these networks need is measured, or give a larger one"
        if is_narrowed
        else "train on a larger `tile`, or with shallower taps"
    )
    text = (
        f"tiles of a frame may show seams: even {tiling.halo} pixels from its edge a tile's map is off by up to "
        f"{100 * tiling.seam:.1f} % of its range; {fix}"
    )
    return [Remark(kind="seams", text=text, count=tiling.count, first=())]


def training_remarks(run: Path, which: str | None = None, exported: Bundle | None = None) -> list[Remark]:
    """Return remarks on a run, and on the window of a bundle that was exported of it.

    See :mod:`kd_train.training.run_remarks`.
    """
    from kd_train.training.run_folder import Run
    from kd_train.training.run_remarks import remarks_on, remarks_on_window

    opened = Run(run)
    return [*remarks_on(opened, which), *(remarks_on_window(opened, exported.manifest.input) if exported else [])]


def first_rate(run: Path) -> float:
    """Return the false-reject rate to begin with: 1 %, or the lowest of the run's held-out images.

    Without held-out images it is 1 %: the threshold comes from images of which nothing is known.
    """
    from kd_train.training.run_folder import Run
    from kdx.calibration.rates import lowest_rate  # with SciPy, which --help does not load

    held_out = len(set(Run(run).config.validation_images.values()))
    return max(_RATE, lowest_rate(held_out)) if held_out else _RATE


def labelled_images(run: Path, data: Path | None, category: str | None, progress: Progress) -> list[tuple[Path, bool]]:
    """Return the labelled test images of a data set, opened as the data of the run."""
    if data is None:
        return []
    with needs("train,cpu", "evaluating"):
        from kd_train.datasets import open_data
        from kd_train.training.run_folder import Run
        from kdx.folders.data_folder import require_test

    folder = open_data(data, category, Run(run).config.folder_options, progress=progress)
    return [(image.path, image.is_defective) for image in require_test(folder)]
