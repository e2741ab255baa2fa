"""What the commands that train say: how to continue, and what was trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from kdx.cli.error_output import Interrupted, again
from kdx.cli.output import make_table, out, print_json, report_bad, report_remarks, shown
from kdx.remarks import Remark, remark
from kdx.storage.files import is_disk_full
from kdx.storage.json_records import RUN_INDEX
from kdx.workflows.os_errors import DiskFullError

if TYPE_CHECKING:
    from kd_train.training.students import TrainResult


@contextlib.contextmanager
def resumable(context: typer.Context, run: Path, *, resume: bool) -> Iterator[list[Remark]]:
    """Keep freed memory, and print what continues a run if Ctrl-C or a full disk ends its training.

    Args:
        context: The command's context.
        run: The run folder.
        resume: Whether the command itself resumes a run.

    Yields:
        A remark, printed already, if there is no run to resume.
    """
    from kd_train.training.freed_memory import keep_freed_memory
    from kd_train.training.kept_epochs import describe_kept

    keep_freed_memory()
    before = _index_of(run)
    text = "run to resume was not found, so training begins with the first epoch"
    remarks = remark("nothing_to_resume", text, [run]) if resume and before is None else []
    report_remarks(remarks)  # before hours of training
    try:
        yield remarks
    except (KeyboardInterrupt, OSError) as error:
        # An earlier run that was to be replaced is still there, and is not this one.
        begun = _index_of(run)
        if begun is None or (begun == before and not resume):
            raise
        if isinstance(error, KeyboardInterrupt):
            kept = describe_kept(run)
            raise Interrupted(f"{kept and f'{kept}; '}continue with: {again(context, '--resume')}") from None
        if is_disk_full(error):
            raise DiskFullError(error, f"free space, and continue: {again(context, '--resume')}") from error
        raise


def _index_of(run: Path) -> tuple[int, int] | None:
    """Return what identifies a run's index as a file, or None without one.

    Its content may be that of the run that was replaced, if both began within a second.
    """
    with contextlib.suppress(OSError):
        found = (run / RUN_INDEX).stat()
        return found.st_ino, found.st_mtime_ns
    return None


def report_training(result: TrainResult, remarks: list[Remark], *, as_json: bool, then: str) -> None:
    """Print what was trained, as text or as JSON.

    Args:
        result: The run; without epochs if only a compact teacher was made.
        remarks: The remarks that are printed already.
        as_json: Whether JSON is printed.
        then: The command that usually follows.
    """
    if as_json:
        print_json({**result.record(), "remarks": [*remarks, *result.remarks]})
        return
    report_bad(result.bad_images)
    report_remarks(result.remarks)
    _show(result)
    for title, rows in result.profile.tables() if result.profile else ():
        table = make_table(title, "stage", "wall s", "share", "CPU s")
        for row in rows:
            table.add_row(*row)
        out.print(table)
    out.print(f"next: {then}")


def _show(result: TrainResult) -> None:
    name, *lines = result.describe()
    out.print(f"[bold]{shown(result.run.path)}[/]: {escape(name)}")
    for line in lines:
        out.print(f"  {escape(line)}")
    if result.int8 is not None:
        _show(result.int8)
