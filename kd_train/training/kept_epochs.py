"""What an interrupted training has kept."""

from __future__ import annotations

from pathlib import Path

from kd_train.training.distilled_teacher import TEACHER_FOLDER
from kd_train.training.run_folder import Run
from kdx.errors import CheckpointError
from kdx.storage.json_records import INT8_FOLDER, RUN_INDEX
from kdx.text import number_of


def describe_kept(path: Path) -> str:
    """Say which epochs of a run, of its compact teacher or of its INT8 stage are kept.

    Args:
        path: The run folder; an empty text where one of its records cannot be read.
    """
    try:
        run = Run(path)
        done, planned = _epochs(path)
        if done == planned and (path / INT8_FOLDER / RUN_INDEX).exists():
            return _of("INT8 students", *_epochs(path / INT8_FOLDER))
        own_teacher = (path / TEACHER_FOLDER / RUN_INDEX).exists()
        if done or not own_teacher:
            return _of("students", done, planned)
        if run.config.distilled is not None:
            return "the compact teacher is kept"
        return _of("compact teacher", *_epochs(path / TEACHER_FOLDER))
    except CheckpointError:
        return ""


def _epochs(path: Path) -> tuple[int, int]:
    """Return the number of epochs after which training resumes, and that of all epochs."""
    run = Run(path)
    is_begun = (path / "last.json").exists()
    return run.checkpoint("last").resumes_at.epoch if is_begun else 0, run.config.recipe.epochs


def _of(what: str, done: int, planned: int) -> str:
    if not done:
        return f"no epoch of the {what} was complete"
    return f"{done} of {number_of(planned, '[epoch|epochs]')} of the {what} {'is' if done == 1 else 'are'} kept"
