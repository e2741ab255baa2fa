"""The INT8 stage of a run, as the training of the run sees it: missing, interrupted, outdated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from msgspec import UNSET

from kd_train.training.options import TrainOptions
from kd_train.training.run_folder import Run
from kdx.errors import CheckpointError, OptionError
from kdx.remarks import Remark, remark
from kdx.storage.json_records import INT8_FOLDER, RUN_INDEX


def missing_stage(run: Run) -> list[Remark]:
    """Return a remark if a run was begun for INT8, and has no INT8 stage."""
    if run.config.precision is UNSET or (run.path / INT8_FOLDER / RUN_INDEX).exists():
        return []
    text = "INT8 stage was asked for when the run began, and was not trained; train it with kdx quantize"
    return remark("missing_int8_stage", text, [run.path])


def options_of_stage(run: Run, options: TrainOptions) -> tuple[TrainOptions, list[Remark]]:
    """Return the options with which the INT8 stage of a run is trained or continued.

    Where the run was extended after its stage was made, that one is of no use: it is replaced by
    one of the same options, and a remark says so. Interrupted, that one is continued with them.

    Raises:
        OptionError: The options ask for another headroom than that of the stage that is replaced.
    """
    own = replace(options, epochs=None, learning_rate=None)
    stage = run.path / INT8_FOLDER
    if run.config.cycles is UNSET or not (stage / RUN_INDEX).exists():
        return own, []
    made = Run(stage).config
    checkpoint = run.checkpoint(run.config.recipe.checkpoint)
    if made.quantized is UNSET:
        return own, []
    headroom = made.quantized.headroom
    own = replace(own, epochs=made.recipe.epochs, learning_rate=made.recipe.learning_rate)
    if made.quantized.checkpoint_sha256 == checkpoint.sha256:  # the stage of the shorter run is replaced already
        return own if options.headroom != TrainOptions.headroom else replace(own, headroom=headroom), []
    if options.headroom not in {TrainOptions.headroom, headroom}:
        raise OptionError(
            "`headroom` has no effect on an INT8 stage that is made again, with its own options",
            expected=f"{headroom:g}, that of the stage of the shorter run",
            received=f"{options.headroom:g}",
            fix=f"leave it out, and then run kdx quantize {run.path} --headroom {options.headroom:g} --force",
        )
    text = "INT8 stage of the shorter run was replaced by one of the extended run, with the same options"
    again = replace(own, headroom=headroom, resume=False, force=True)
    return again, remark("replaced_int8_stage", text, [stage])


def require_no_stage(out: Path, options: TrainOptions) -> None:
    """Check that a run is not an INT8 stage, and that no stage of it waits to be continued.

    Raises:
        CheckpointError: It is, or one does, or the run that is resumed cannot be read.
    """
    if not (out / RUN_INDEX).exists():
        return
    try:
        run = Run(out)
    except CheckpointError:
        if options.force:  # a damaged run is replaced too
            return
        raise
    if run.config.quantized is not UNSET:
        raise CheckpointError(
            f"the networks of '{run.path}' are INT8: they are the second stage of another run",
            fix=run.how_to_continue,
        )
    if not options.resume or options.precision == "int8" or not (run.path / INT8_FOLDER / RUN_INDEX).exists():
        return
    stage = Run(run.path / INT8_FOLDER)
    if stage.remarks() or not (stage.path / "last.json").exists():
        raise CheckpointError(
            f"'{run.path}' cannot be resumed in FP32: its training in INT8 was interrupted",
            expected="`precision='int8'`",
            received=f"`precision='{options.precision}'`",
            fix=f"pass `precision='int8'`, or {stage.how_to_continue}",
        )
