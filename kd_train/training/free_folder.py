"""Whether a training may write into a folder."""

from __future__ import annotations

from pathlib import Path

from msgspec import UNSET

from kd_train.training.run_folder import Run
from kdx.errors import CheckpointError, OutputError
from kdx.storage.json_records import INT8_FOLDER, RUN_INDEX


def require_free(
    folder: Path, *, resume: bool, force: bool, precision: str = "fp32", otherwise: str = ", or choose another `out`"
) -> None:
    """Check that a folder holds no run, or one that is resumed or replaced.

    Args:
        folder: The run folder.
        resume: Whether a run in it is resumed.
        force: Whether a run in it is replaced.
        precision: The precision of the last stage that was asked for.
        otherwise: What else the user can do, for the message.

    Raises:
        OutputError: It holds a run that is neither resumed nor replaced, or something else.
    """
    is_run = (folder / RUN_INDEX).exists()
    if is_run and not resume and not force:
        fix = "pass `resume=True` to continue it, or `force=True` to replace it"
        if _is_finished(folder, precision):
            fix = "it is finished, and nothing is left to continue: pass `force=True` to replace it"
        raise OutputError(f"'{folder}' holds a run already", fix=fix + otherwise)
    if folder.exists() and not is_run and any(folder.iterdir()):
        raise OutputError(f"'{folder}' exists and is not a run folder", fix=f"move it away{otherwise}")


def _is_finished(folder: Path, precision: str) -> bool:
    """Whether a run has all epochs, and those of its INT8 stage where it has or needs one."""
    try:
        run = Run(folder)
        run.require_finished()
        stage = run.path / INT8_FOLDER
        needs_stage = precision == "int8" or run.config.precision is not UNSET or (stage / RUN_INDEX).exists()
        if needs_stage and run.config.quantized is UNSET:
            Run(stage).require_finished()
    except CheckpointError:
        return False
    return True
