"""Results are printed to standard output, everything that accompanies them to standard error."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kdx.imaging.decoded_image import GreyConversionWarning
from kdx.progress import SILENT, LineProgress, Progress, Task
from kdx.remarks import Remark
from kdx.storage.json_output import encode_json, write_json
from kdx.text import Line, number_of, one_line, spelled, visible, visible_json

STANDARD_OUTPUT = "standard output"  # the file name of an OSError that was raised while printing


@contextmanager
def _to_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = STANDARD_OUTPUT
        raise


class SafeConsole(Console):
    """A console that shows the control characters that a terminal would obey.

    Names and contents of files may hold escape sequences.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; a failure names standard output."""
        with nullcontext() if self.stderr else _to_output():
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Raise the error that is handled: rich exits with 1, the status of a failed gate."""
        raise

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a rich text of a string, with its control characters written out."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render with control characters written out, except those of rich itself."""
        for segment in super().render(renderable, options):
            yield segment if segment.is_control else segment._replace(text=visible(segment.text))


class _NoteConsole(SafeConsole):
    """Standard error, without what it cannot write: no note changes a result."""

    @property
    def file(self) -> IO[str]:
        """Standard error as it is at this moment."""
        return cast("IO[str]", _Notes(super().file))

    @file.setter
    def file(self, stream: IO[str]) -> None:
        self._file = stream


class _Notes:
    """A stream on which writing never fails; for the rest, it is the one that is given."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# kdx does not break lines: a path must survive being copied, and a pipe has no width. Where rich
# would assume 80 columns, a table gets more.
_WIDTH = None if "COLUMNS" in os.environ or (sys.stdout and sys.stdout.isatty()) else 160
out = SafeConsole(highlight=False, soft_wrap=True, width=_WIDTH)
err = _NoteConsole(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def also_written(path: Path | None, value: object) -> Iterator[None]:
    """Write a result as JSON too; if that fails, the block prints the result before the error."""
    failure = None
    if path is not None:
        try:
            write_json(path, value)
        except OSError as error:
            failure = error
    yield
    if failure is not None:
        raise failure


def print_json(value: object) -> None:
    """Print one JSON document."""
    _write_output(visible_json(encode_json(value).decode()) + "\n")


def print_json_line(value: object) -> None:
    """Print one line of JSON Lines, and flush it: whatever reads the lines acts on each at once."""
    _write_output(visible_json(encode_json(value, on_one_line=True).decode()) + "\n")


def _write_output(text: str) -> None:
    with _to_output():
        sys.stdout.write(text)
        sys.stdout.flush()  # a full disk is noticed while the command can still report it


def write_utf8() -> None:
    """Write UTF-8 whoever reads it.

    Windows gives pipes and files the encoding of its locale, which lacks most characters.
    """
    for stream in (sys.stdout, sys.stderr):
        if sys.platform == "win32" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")


def drop_output() -> None:
    """Discard the buffer of standard output, so that Python does not fail at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def drop_unwritten_notes() -> None:
    """Discard what standard error does not take, for which Python would exit with status 120."""
    try:
        if sys.stderr is not None:  # as it is for a process that was started without one
            sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def progress_for(as_json: bool) -> Progress:
    """Return bars on standard error, or lines where that is no terminal; nothing for ``--json``."""
    return SILENT if as_json else _Bars() if err.is_terminal else LineProgress(say)


def say(line: str) -> None:
    """Print a line of progress to standard error. Any thread may, and nothing is raised."""
    err.print(escape(spelled(one_line(line))))


def say_nothing(line: str) -> None:
    """Take the place of :func:`say` where ``--json`` was asked for."""


def shown(path: object) -> str:
    """Return a path to be printed as it is: brackets in it are no style of rich."""
    return escape(one_line(str(path)))


def typed(path: object) -> str:
    """Return a path to be printed as a word of a command that users copy."""
    return escape(shlex.quote(str(path)))


def make_table(title: str, *headings: str, left: tuple[str, ...] = ()) -> Table:
    """Return a table; columns but the first and those in ``left`` align right."""
    table = Table(title=escape(one_line(title)) or None, title_justify="left", pad_edge=False)
    for index, heading in enumerate(headings):
        is_left = index == 0 or heading in left
        table.add_column(heading, justify="left" if is_left else "right", no_wrap=index == 0, overflow="fold")
    return table


def report_bad(bad: dict[str, str] | dict[Path, str]) -> None:
    """Name the images that were skipped."""
    for reason in bad.values():
        err.print(f"[yellow]skipped:[/] {escape(one_line(reason))}")
    if bad:
        err.print(f"[yellow]{number_of(len(bad), '[image|images]')} could not be used[/]")


def report_remarks(remarks: Iterable[Remark]) -> None:
    """Show what was left out or could not be used."""
    for one in remarks:
        err.print(f"[yellow]note:[/] {escape(spelled(one_line(str(one))))}")


def show_result(title: object, lines: Sequence[Line]) -> None:
    """Print a result: its title before the first line, the others indented."""
    for index, line in enumerate(lines):
        begin = "  " if index else f"[bold]{shown(title)}[/]: "
        style = "bold red" if line.failed else "yellow"
        label = f"[{style}]{escape(line.label)}:[/] " if line.label else ""
        out.print(f"{begin}{label}{escape(spelled(one_line(line.text)))}")


def warn(text: str) -> None:
    """Print a warning to standard error; an empty one not at all."""
    if text:
        err.print(f"[yellow]warning:[/] {escape(spelled(one_line(text)))}")


def show_warning(
    plainly: Callable[..., None], message: Warning | str, category: type[Warning], *rest: Any, **more: Any
) -> None:
    """Show a Python warning of kdx as a message, and any other with ``plainly``, as Python does."""
    if issubclass(category, GreyConversionWarning):
        return  # commands count these images, and say so in a remark
    if category.__module__.split(".")[0] in {"kdx", "kd_train", "kd_export"}:
        warn(str(message))
    else:
        plainly(visible(str(message)), category, *rest, **more)


class _Bars:
    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        columns = (
            TextColumn("{task.description:28}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with RichBars(*columns, console=err, transient=True) as bars:
            identity = bars.add_task(description, total=total, note="")
            yield _Bar(bars, identity)


class _Bar:
    def __init__(self, bars: RichBars, identity: Any) -> None:
        self.bars = bars
        self.identity = identity

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.bars.update(self.identity, advance=steps)
        if note:
            self.bars.update(self.identity, note=note)
