"""What makes the figures or the bundle of a run doubtful."""

from __future__ import annotations

import contextlib
import shlex

from msgspec import UNSET

from kd_train.training.run_folder import Run
from kd_train.training.tiled_detector import SCALE_TOLERANCE
from kdx.bundle.teacher_comparison import worse_teacher
from kdx.errors import CheckpointError
from kdx.imaging.image_size import say_size
from kdx.imaging.images import InputSpec
from kdx.remarks import Remark, remark


def remarks_on(run: Run, which: str | None = None) -> list[Remark]:
    """Return remarks on a run that is evaluated or exported.

    Args:
        run: The run.
        which: The checkpoint that is used, ``last`` or ``best``; None for the one that the recipe
            names.
    """
    found = [*run.remarks(), *_stage_of_another_checkpoint(run), *_border_weights_of_another_checkpoint(run, which)]
    return [*found, *(worse_teacher(run.config.distilled.comparisons) if run.config.distilled else [])]


def remarks_on_window(run: Run, exported: InputSpec) -> list[Remark]:
    """Return a remark where networks see a window at another scale than the training images.

    Args:
        run: The run.
        exported: The input for which it was exported.
    """
    trained, sides = run.config.input.seen, exported.seen
    if exported.crop is UNSET or not run.config.input.fixed_size:
        return []
    if all(abs(one / other - 1) < SCALE_TOLERANCE for one, other in zip(trained, sides, strict=True)):
        return []
    text = (
        f"window has other sides than the training images, {say_size(trained)}: unless both show the same part of the "
        "scene, the networks see it at another scale than they learnt; train with `crop` on frames of this camera"
    )
    return remark("window_of_another_scale", text, [f"`crop` of {say_size(sides)}"])


def _stage_of_another_checkpoint(stage: Run) -> list[Remark]:
    """Return a remark on an INT8 stage whose run has another checkpoint now."""
    quantized = stage.config.quantized
    if quantized is UNSET:
        return []
    with contextlib.suppress(CheckpointError):  # a stage that was moved out of its run
        run = Run(stage.path.parent)
        checkpoint = run.checkpoint(run.config.recipe.checkpoint)
        if (quantized.checkpoint_sha256, quantized.teacher_sha256) != (checkpoint.sha256, run.config.teacher_sha256):
            again = shlex.join(["kdx", "quantize", str(run.path), "--force"])
            text = f"INT8 stage came from another checkpoint than its run has now, and is not exported: {again}"
            return remark("stage_of_another_checkpoint", text, [stage.path])
    return []


def _border_weights_of_another_checkpoint(run: Run, which: str | None) -> list[Remark]:
    """Return a remark where the border weights were measured with other students."""
    usual = run.config.recipe.checkpoint
    if which in {None, usual} or run.config.border_weights is UNSET:
        return []
    measured, used = run.checkpoint(usual), run.checkpoint(which or usual)
    if measured.sha256 == used.sha256:
        return []
    text = f"set of border weights was measured with the checkpoint {usual} (epoch {measured.epoch}), and is used with"
    return remark("border_weights_of_another_checkpoint", text, [f"{which} (epoch {used.epoch})"])
