"""What the commands share: errors to exit statuses, ``--json``, progress bars, common options."""

from __future__ import annotations

import errno
import functools
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, overload

import msgspec
import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichBars
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from kdx.errors import KdxError, OptionError
from kdx.imaging.value_range import NarrowRanges, counted
from kdx.progress import SILENT, Progress, Task
from kdx.remarks import Remark
from kdx.storage.files import tidy, write_atomic
from kdx.storage.json_records import RUN_INDEX
from kdx.text import visible, visible_json

F = TypeVar("F", bound=Callable[..., Any])


_OUTPUT = "standard output"  # stands in an OSError for the file's name


@contextmanager
def _to_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = _OUTPUT
        raise


class SafeConsole(Console):
    """A console that shows what a terminal would obey: names and contents of files may hold escape sequences."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, and name standard output where that fails."""
        with nullcontext() if self.stderr else _to_output():
            super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make text of a string, before rich drops some control characters and measures the others as nothing."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render with control characters written out, but for those of rich itself."""
        for segment in super().render(renderable, options):
            yield segment if segment.is_control else segment._replace(text=visible(segment.text))


# Results go to standard output; everything that merely accompanies them goes to standard error. Lines are not broken by
# us: a path must survive being copied, and a pipe has no width; where rich would assume 80 columns, a table gets more.
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
out = SafeConsole(highlight=False, soft_wrap=True, width=_WIDTH)
err = SafeConsole(stderr=True, highlight=False, soft_wrap=True)

INTERRUPTED = 130  # as shells report Ctrl-C
BROKEN_PIPE = 141  # as shells report SIGPIPE
BUG = 70  # EX_SOFTWARE: neither a failed gate nor a user's error

JSON_OPTION = typer.Option(False, "--json", help="Print the result as JSON on standard output, and nothing else there.")
FORCE_OPTION = typer.Option(False, "--force", help="Replace the output if it exists.")
THREADS_OPTION = typer.Option(
    None, "--threads", min=1, max=1024, help="Threads within an operation. Default: the backend's choice."
)
SUBFOLDERS_OPTION = typer.Option(
    False, "--subfolders", help="Take images in subfolders too: of a folder of good images, all of them are good."
)
GOOD_FOLDER_OPTION = typer.Option(
    [],
    "--good-folder",
    metavar="NAME",
    help="A folder whose images are good, beside the usual names (good, ok, pass, normal and others, in any case); may "
    "be repeated.",
)
MAX_BAD_OPTION = typer.Option(0, "--max-bad-images", min=0, help="How many unreadable images to name and pass over.")


@overload
def command(function: F) -> F: ...
@overload
def command(*, json_lines: bool) -> Callable[[F], F]: ...
def command(function: F | None = None, *, json_lines: bool = False) -> F | Callable[[F], F]:
    """Turn what a command raises into a message and an exit status.

    Args:
        function: The command.
        json_lines: Its ``--json`` prints a line an object, and so an error as well.
    """
    if function is None:
        return functools.partial(_guarded, json_lines=json_lines)
    return _guarded(function, json_lines=False)


def _guarded(function: F, *, json_lines: bool) -> F:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        narrow = NarrowRanges()
        show = (print_json_line if json_lines else print_json) if kwargs.get("json", False) else None
        try:
            with counted(narrow, functools.partial(_show_warning, warnings.showwarning)):  # and said once
                try:
                    function(*args, **kwargs)
                finally:
                    warn(narrow.describe())
        except KdxError as error:
            _fail(error.as_dict(), str(error), error.exit_status, show)
        except KeyboardInterrupt:
            # Before its run folder is there, nothing of a training can be resumed.
            is_begun = function.__name__ == "train" and (Path(kwargs["run"]) / RUN_INDEX).exists()
            hint = "; go on with --resume" if is_begun else "; nothing was left half written"
            _fail({"type": "Interrupted", "message": "interrupted"}, f"interrupted{hint}", INTERRUPTED, show)
        except BrokenPipeError:  # whoever read our output has left
            _drop_output()
            raise typer.Exit(BROKEN_PIPE) from None
        except OSError as error:
            if error.filename == _OUTPUT:
                _drop_output()
                reason = "the disk is full" if _is_disk_full(error) else error.strerror or str(error)
                text = f"{_OUTPUT}: {reason}; the result was not written in full"
                _fail({"type": "OSError", "message": text}, text, 2, None)
            _fail({"type": "OSError", "message": _describe(error)}, _describe(error), 2, show)
        except MissingPackageError as error:
            _fail({"type": "MissingPackage", "message": str(error)}, str(error), 2, show)
        except typer.Exit:
            raise
        except Exception as error:
            err.print(escape(traceback.format_exc()), style="dim")
            message = f"{type(error).__name__}: {error}"
            _fail({"type": "Bug", "message": message}, f"this is a bug in kdx: {message}", BUG, show)

    return wrapped  # type: ignore[return-value]


class MissingPackageError(Exception):
    """A command needs an extra that is not installed."""


@contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Say which extra to install when an import inside the block fails."""
    try:
        yield
    except ImportError as error:
        name = (error.name or str(error)).split(".")[0]
        raise MissingPackageError(
            f"{purpose} needs the package '{name}', which is not installed\n  fix: pip install \"kdx[{extra}]\""
        ) from error


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return an option's value if it is allowed; raise ``OptionError`` otherwise."""
    if value not in allowed:
        raise OptionError(f"{option} is not possible", expected=", ".join(allowed), received=value)
    return value


def require_effect(given: Mapping[str, bool], needed: str) -> None:
    """Raise ``OptionError`` for options that would change nothing.

    Args:
        given: Whether each option was given, by its name.
        needed: What they need in order to have an effect.
    """
    without = [name for name, is_given in given.items() if is_given]
    if without:
        names = " and ".join(without)
        raise OptionError(f"{names} would change nothing without {needed}", fix=f"add {needed}, or leave out {names}")


def batch_sizes(text: str, largest: int) -> list[int]:
    """Return the batch sizes of ``--batch 1,8``; raise ``OptionError`` when they are none, or beyond the bundle's."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError("--batch is not a list of numbers", expected="e.g. 1,8", received=text) from error
    if any(not 1 <= size <= largest for size in sizes):
        raise OptionError("--batch is out of range", expected=f"1 to {largest} for this bundle", received=text)
    return sizes


def print_json(value: object) -> None:
    """Print one JSON document."""
    _write_output(visible_json(msgspec.json.format(msgspec.json.encode(_plain(value)), indent=2).decode()) + "\n")


def print_json_line(value: object) -> None:
    """Print one line of JSON Lines, at once: a line that waits in a buffer is of no use to the line."""
    _write_output(visible_json(msgspec.json.encode(_plain(value)).decode()) + "\n")


def _write_output(text: str) -> None:
    with _to_output():
        sys.stdout.write(text)
        sys.stdout.flush()  # a full disk is noticed while the command can still say so


def write_json(path: Path, value: object) -> None:
    """Write one JSON document to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tidy(path)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(_plain(value)), indent=2) + b"\n")


def progress_for(as_json: bool) -> Progress:
    """Return bars on standard error, or nothing for ``--json``."""
    return SILENT if as_json else _Bars()


def percent(value: float | None) -> str:
    """Format a share for a table; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def number(value: float | None) -> str:
    """Format a number for a table; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"


def make_table(title: str, *headings: str, left: tuple[str, ...] = ()) -> Table:
    """Return a table whose first column is never cut; columns but the first and those in ``left`` align right."""
    table = Table(title=title or None, title_justify="left", pad_edge=False)
    for index, heading in enumerate(headings):
        is_left = index == 0 or heading in left
        table.add_column(heading, justify="left" if is_left else "right", no_wrap=index == 0, overflow="fold")
    return table


def report_bad(bad: dict[str, str] | dict[Path, str]) -> None:
    """Name the images that were passed over."""
    for reason in bad.values():
        err.print(f"[yellow]passed over:[/] {escape(reason)}")
    if bad:
        err.print(f"[yellow]{len(bad)} images could not be used[/]")


def report_remarks(remarks: Iterable[Remark]) -> None:
    """Show what was left out or could not be used."""
    for one in remarks:
        err.print(f"[yellow]note:[/] {escape(str(one))}")


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


def _plain(value: object) -> object:
    """Return builtins that JSON can hold: numbers that are not finite become null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    builtins = msgspec.to_builtins(value, enc_hook=_path_text, str_keys=True)
    return _finite(builtins)


def _path_text(value: object) -> str:
    """Write a path; anything else, a number of NumPy's for one, would become text without a word."""
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} in a record")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        # A file's name may be no text, which JSON could not hold.
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_finite(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def warn(text: str) -> None:
    """Print a warning to standard error; an empty one not at all."""
    if text:
        err.print(f"[yellow]warning:[/] {escape(text)}")


def _show_warning(
    plainly: Callable[..., None], message: Warning | str, category: type[Warning], *rest: Any, **more: Any
) -> None:
    """Show a warning of kdx's own as a message, and any other as Python does."""
    if category.__module__.split(".")[0] in {"kdx", "kd_train", "kd_export"}:
        warn(str(message))
    else:
        plainly(visible(str(message)), category, *rest, **more)


def _is_disk_full(error: OSError) -> bool:
    return error.errno in {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # a user's share counts as the disk


def _describe(error: OSError) -> str:
    where = f" '{error.filename}'" if error.filename else ""
    if _is_disk_full(error):
        return f"the disk is full{where}; nothing was left half written\n  fix: free space and call again"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"no permission{where}: {error.strerror}\n  fix: choose a folder that you may write to"
    return f"{error.strerror or error}{where}"


def _fail(record: dict[str, str], text: str, status: int, show: Callable[[object], None] | None) -> NoReturn:
    try:
        if show is not None:
            show({"error": record})
    except OSError:
        _drop_output()
        show = None
    if show is None:
        err.print(f"[bold red]error:[/] {escape(text)}")
    raise typer.Exit(status)


def _drop_output() -> None:
    """Let what standard output still holds go nowhere, for Python would fail at exit where it takes no more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
