"""What the commands that train say: how to continue, and how a compact teacher was made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import typer

from kd_train.training.distilled_teacher import DistilledTeacher
from kdx.cli.error_output import DiskFullError, Interrupted, is_disk_full, resume_command
from kdx.cli.output import out
from kdx.remarks import Remark, remark
from kdx.storage.json_records import RUN_INDEX
from kdx.text import number_of


@contextlib.contextmanager
def resumable(context: typer.Context, run: Path, *, resume: bool) -> Iterator[None]:
    """Print the command that continues a run if Ctrl-C or a full disk ends its training.

    Args:
        context: The command's context.
        run: The run folder.
        resume: Whether the command itself resumes a run.
    """
    before = _index_of(run)
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        # An earlier run that was to be replaced is still there, and is not this one.
        begun = _index_of(run)
        if begun is None or (begun == before and not resume):
            raise
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"continue with: {resume_command(context)}") from None
        if is_disk_full(error):
            raise DiskFullError(error, resume_command(context)) from error
        raise


def _index_of(run: Path) -> tuple[int, int] | None:
    """Return what identifies a run's index as a file, or None without one.

    Its content may be that of the run that was replaced, if both began within a second.
    """
    with contextlib.suppress(OSError):
        found = (run / RUN_INDEX).stat()
        return found.st_ino, found.st_mtime_ns
    return None


def nothing_to_resume(run: Path) -> list[Remark]:
    """Return a remark if there is no run to resume."""
    if (run / RUN_INDEX).exists():
        return []
    return remark("nothing_to_resume", "run to resume was not found, so training begins with the first epoch", [run])


def report_compact_teacher(made: DistilledTeacher) -> None:
    """Print from how many images a compact teacher learnt, and how far from its source it is."""
    more = f" and {number_of(made.extra_images, 'further [image|images]')}" if made.extra_images else ""
    images = number_of(made.images, "good [image|images]")
    epochs = number_of(made.epochs, "[epoch|epochs]")
    out.print(f"  the teacher learnt from {images} in {made.variants} variants each{more}, {epochs}")
    distances = ", ".join(f"{tap} {each.good:.3f} ({each.defects:.3f})" for tap, each in made.residuals.items())
    out.print(f"  its distance from its source on held-out good images (with drawn defects): {distances}")
    for each in made.comparisons:
        out.print(f"  its features, as a detector without a student: {each.describe()}")
