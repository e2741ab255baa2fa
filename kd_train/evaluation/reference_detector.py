"""A run as a detector in eager PyTorch, the reference for everything that is exported."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
from msgspec import UNSET

from kd_train.training.run_folder import Run
from kd_train.training.tiled_detector import are_tiles_asked, fuse_tiles
from kd_train.training.trained_pair import fuse, load_pair
from kdx.decision.answers import answer_limits
from kdx.decision.rule import DecisionRule
from kdx.errors import OptionError
from kdx.imaging.frame_faults import UNKNOWN, FrameLimits, limits_of
from kdx.imaging.images import InputSpec, read_image
from kdx.imaging.tiling import Stitcher, TileRequest
from kdx.runtime.detector import Detector
from kdx.runtime.tiled import Tiled
from kdx.runtime.torch.eager import TorchEager


def load_detector(path: Path, *, which: str | None = None, threads: int | None = None) -> Detector:
    """Load a run as a detector without a threshold.

    Frames that show no part are detected as by its bundle before calibration. It computes in FP32,
    also with the values of INT8 if the run is an INT8 stage. A run that was trained on tiles judges
    whole frames.

    Raises:
        OptionError: It was trained on tiles of frames of several sizes.
    """
    run = Run(path)
    if run.config.tile is not None and run.config.frame is None:
        command = f"kdx export {shlex.quote(str(path))} -o NAME.kdx --frame HxW"
        raise OptionError(
            f"'{path}' was trained on tiles of frames of several sizes, and a detector judges frames of one",
            fix=f"export it for one size, and use the bundle: {command}",
        )
    pair, _ = load_pair(run, which)
    spec, options = run.config.pair_spec, TileRequest()
    precision = "fp32" if run.config.quantized is UNSET else "int8"
    if not are_tiles_asked(run.config, options):
        fused = fuse(run.config, pair)
        backend = TorchEager(fused, threads=threads)
        rule = DecisionRule(
            field_of_view=fused.field_of_view,
            frame_limits=_frame_limits(run, fused.input_spec),
            answer_limits=answer_limits(spec, fused.size),
        )
        return Detector(backend, run.config.input, rule, max_batch=16, precision=precision)
    fused, tiling = fuse_tiles(run, pair, options)
    limits = answer_limits(spec, fused.size)
    stitcher = Stitcher(tiling, (fused.input_spec.height, fused.input_spec.width), fused.size)
    tiled = Tiled(TorchEager(fused, threads=threads), stitcher, limits)
    rule = DecisionRule(frame_limits=UNKNOWN, answer_limits=limits)  # golden images are tiles
    return Detector(tiled, run.input_for(tiling.frame), rule, max_batch=1, precision=precision)


def _frame_limits(run: Run, spec: InputSpec) -> FrameLimits:
    """Return what the golden images allow, as the export writes it."""
    golden = run.golden_files()
    return limits_of(np.stack([read_image(path, spec) for path in golden])) if golden else FrameLimits()
