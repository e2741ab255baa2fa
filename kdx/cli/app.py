"""The commands put together."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

import kdx
from kdx.cli import (
    bench,
    build_engine,
    calibrate,
    demo,
    distil,
    doctor,
    drift,
    evaluate,
    export,
    fit,
    inspect,
    methods,
    predict,
    quantize,
    repeat,
    report,
    reproduce,
    roi,
    score,
    selftest,
    serve,
    sign,
    train,
    train_many,
    triton,
    verify,
    watch,
)
from kdx.cli.error_output import BROKEN_PIPE, Command
from kdx.cli.output import drop_output, drop_unwritten_notes, write_utf8
from kdx.text import visible

_HELP = """From a folder of good parts to a verdict on the line.

Start with **kdx demo**, or with your own images:

- **kdx train DATA --out runs/tile**: learn what good parts look like
- **kdx evaluate runs/tile DATA**: how well defects are detected (needs test images)
- **kdx export runs/tile -o tile.kdx**: one ONNX graph, checked
- **kdx calibrate tile.kdx DATA**: the threshold, from good images held out
- **kdx predict tile.kdx IMAGES... --overlay out/**: verdicts and heat maps

Exit status: 0 done, 1 the answer is no (a check failed, a budget was missed), 2 the request could
not be carried out, 70 a fault of kdx itself, 130 interrupted (Ctrl-C or SIGTERM; kdx watch and kdx
serve end with 0 then), 141 whoever read the output left.
"""


class _Group(TyperGroup):
    """The commands; words of the command line are quoted in errors as a terminal can show them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Of typer's own copy of click, whose place is not public.
            if hasattr(error, "format_message") and hasattr(error, "message"):
                error.message = visible(str(error.message))
            raise


app = typer.Typer(
    cls=_Group,
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
# The panels of `kdx --help`, in the order in which a detector is made and used.
_PANELS = {
    "Train": (demo, train, distil, train_many, fit, quantize, evaluate),
    "Deploy": (export, roi, calibrate, verify, bench, report, sign, build_engine, triton),
    "Run": (predict, watch, serve, score, repeat, inspect, doctor),
    "Monitor": (selftest, drift),
    "Research": (methods, reproduce),
}
for _panel, _modules in _PANELS.items():
    for _module in _modules:
        _name = _module.__name__.rpartition(".")[2]
        app.command(
            _name.replace("_", "-"),
            cls=getattr(_module, "COMMAND", Command),
            context_settings=getattr(_module, "CONTEXT", None),
            rich_help_panel=_panel,
        )(getattr(_module, _name))


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"kdx {kdx.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def run() -> None:
    """Run the command that the arguments name."""
    write_utf8()
    try:
        app()
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        drop_output()  # whoever read the help has left, with which Rich and Typer exit with 1
        raise SystemExit(BROKEN_PIPE) from None
    finally:
        drop_unwritten_notes()
