"""What a command raises becomes a message and an exit status."""

from __future__ import annotations

import functools
import shlex
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.markup import escape
from typer.core import TyperCommand

from kdx.cli.flags import flags_of
from kdx.cli.output import STANDARD_OUTPUT, drop_output, err, print_json, print_json_line, show_warning, warn
from kdx.errors import (
    BackendError,
    BundleError,
    CheckpointError,
    DataError,
    GateError,
    InputError,
    KdxError,
    TrainingError,
    WeightsError,
)
from kdx.imaging.value_range import NarrowRanges, counted
from kdx.storage.files import is_disk_full
from kdx.text import near_names, one_line, spelled, visible, without_passwords
from kdx.workflows.os_errors import describe_os_error
from kdx.workflows.packages import MissingPackageError

INTERRUPTED = 130  # as shells report Ctrl-C; also for SIGTERM
BROKEN_PIPE = 141  # as shells report SIGPIPE
BUG = 70  # EX_SOFTWARE: neither a failed gate nor a user's error
_WORDS = "kdx.words"  # the words after the command's name
_page = 'the page "{}" of the documentation of kdx'.format

# The command, or the page of the documentation, that helps where an error itself names no fix. An
# installed kdx has no files of the documentation.
HELP: tuple[tuple[type[KdxError], str], ...] = (
    (BackendError, "kdx doctor"),
    (BundleError, _page("Bundle format")),
    (CheckpointError, _page("From 50 good images to a verdict")),
    (DataError, _page("Images and folders")),
    (GateError, _page("What kdx refuses, reports and guarantees")),
    (InputError, _page("Python on the line")),
    (TrainingError, _page("Methods")),
    (WeightsError, _page("Methods")),
)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM in a command whose work can be continued; the message says how."""


class Command(TyperCommand):
    """A command whose errors are shown as messages, and as JSON where ``--json`` was given."""

    show_json = staticmethod(print_json)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words of the command line for :func:`again`."""
        words = ctx.meta[_WORDS] = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # a usage error quotes what the user wrote
            if _is_usage(error):
                error.message = without_passwords(error.message)  # type: ignore[attr-defined]
                names = [name for each in self.get_params(ctx) for name in (*each.opts, *each.secondary_opts)]
                flags = [name for name in names if name.startswith("--")]
                error.possibilities = near_names(getattr(error, "option_name", ""), flags)  # type: ignore[attr-defined]
                if "--json" in flags and "--json" in words[: _end_of_options(words)]:
                    _fail_usage(error, self.show_json)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit with the status of what it raises."""
        show = self.show_json if ctx.params.get("json", False) else None
        narrow = NarrowRanges()
        with flags_of(self), _terminated_as_interrupted():
            try:
                # Images that hardly use their declared range are counted, and reported once at the
                # end.
                with counted(narrow, functools.partial(show_warning, warnings.showwarning)):
                    try:
                        return super().invoke(ctx)
                    finally:
                        warn(narrow.describe())
            except BaseException as error:
                _end(error, show, f"kdx {ctx.info_name} --help")


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, by which service managers and schedulers stop a process, act as Ctrl-C does."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def again(context: typer.Context, option: str) -> str:
    """Return the command that runs, to be pasted, with one of --resume and --force."""
    words = context.meta[_WORDS]
    end = _end_of_options(words)
    options = [word for word in words[:end] if word not in {"--force", "--resume"}]
    return shlex.join(["kdx", str(context.info_name), *options, option, *words[end:]])


def _end_of_options(words: list[str]) -> int:
    return words.index("--") if "--" in words else len(words)


class LinesCommand(Command):
    """A command whose ``--json`` prints one object a line, errors included."""

    show_json = staticmethod(print_json_line)


def _end(error: BaseException, show: Callable[[object], None] | None, usage: str) -> NoReturn:
    """Report an error and exit; let an exit that the command asked for pass.

    Args:
        error: What was raised.
        show: Prints the record of an error, for ``--json``; None for a message on standard error.
        usage: What prints the options of the command.
    """
    if isinstance(error, KdxError):
        record = {name: spelled(text) for name, text in error.as_dict().items()}
        details = {name: text for name, text in record.items() if name not in {"type", "message"}}
        if not error.fix:
            details["help"] = next((text for kind, text in HELP if isinstance(error, kind)), usage)
        lines = (f"\n  {name}: {one_line(text)}" for name, text in details.items())
        _fail(record, one_line(record["message"]) + "".join(lines), error.exit_status, show)
    if isinstance(error, KeyboardInterrupt):
        hint = str(error) or "nothing was left half written"
        if show is not None and str(error):  # how to resume, which the record does not say
            err.print(escape(f"interrupted; {hint}"))
        _fail({"type": "Interrupted", "message": "interrupted"}, f"interrupted; {hint}", INTERRUPTED, show)
    if isinstance(error, BrokenPipeError):  # whoever read our output has left
        drop_output()
        raise typer.Exit(BROKEN_PIPE) from None
    if isinstance(error, OSError):
        if error.filename == STANDARD_OUTPUT:
            drop_output()
            reason = "the disk is full" if is_disk_full(error) else error.strerror or str(error)
            text = f"{STANDARD_OUTPUT}: {reason}; the result was not written in full"
            _fail({"type": "OSError", "message": text}, text, 2, None)
        text = describe_os_error(error, usage)
        _fail({"type": "OSError", "message": text}, text, 2, show)
    if isinstance(error, MissingPackageError):
        _fail({"type": "MissingPackage", "message": str(error)}, str(error), 2, show)
    if show is not None and isinstance(error, Exception) and _is_usage(error):
        _fail_usage(error, show)
    if not isinstance(error, Exception) or isinstance(error, (typer.Exit, typer.Abort)) or _is_usage(error):
        raise error
    err.print(escape(without_passwords("".join(traceback.format_exception(error)))), style="dim")
    message = f"{type(error).__name__}: {error}"
    _fail({"type": "Bug", "message": message}, f"this is a bug in kdx: {message}", BUG, show)


def _is_usage(error: Exception) -> bool:
    # Usage errors are of typer's own copy of click, whose place is not public.
    return hasattr(error, "format_message")


def _fail_usage(error: Exception, show: Callable[[object], None]) -> NoReturn:
    """Print the record of a usage error, which without ``--json`` is a box on standard error."""
    text = visible(error.format_message())  # type: ignore[attr-defined]
    _fail({"type": "UsageError", "message": text}, text, 2, show)


def _fail(record: dict[str, str], text: str, status: int, show: Callable[[object], None] | None) -> NoReturn:
    text = without_passwords(text)
    try:
        if show is not None:
            show({"error": {name: without_passwords(value) for name, value in record.items()}})
    except OSError:
        drop_output()
        show = None
    if show is None:
        err.print(f"[bold red]error:[/] {escape(text)}")
    raise typer.Exit(status)
