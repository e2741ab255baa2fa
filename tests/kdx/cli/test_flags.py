"""Parameters that the library's messages name are the command's options on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from kdx.cli.errors import Command
from kdx.cli.flags import with_flags
from kdx.cli.output import print_json
from kdx.errors import OutputError

HERE = Path()
MESSAGE = "pass `resume=True`, `good_folders` or `image_size=64`, or `precisions=('fp32', 'fp16')` for `data`"
FLAGS = "pass --resume, --good-folder or --image-size 64, or --precision fp32,fp16 for DATA"


def run(fix: str, *arguments: str) -> str:
    """Return what a command prints whose library raises an error with this fix."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command(cls=Command)
    def fails(
        data: Annotated[Path, typer.Argument()] = HERE,
        resume: Annotated[bool, typer.Option("--resume")] = False,
        folder: Annotated[list[str] | None, typer.Option("--good-folder")] = None,
        size: Annotated[int, typer.Option("--image-size")] = 0,
        precision: Annotated[str, typer.Option("--precision")] = "fp32",
        category: Annotated[list[str] | None, typer.Option("--category")] = None,
        out: Annotated[Path, typer.Option("--out", "-o")] = HERE,
        json: Annotated[bool, typer.Option("--json")] = False,
    ) -> None:
        raise OutputError("it is there", fix=fix)

    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "1000"})
    assert result.exit_code == 2
    return result.output


def test_marked_parameters_become_options():
    assert f"fix: {FLAGS}" in run(MESSAGE)


def test_in_json_too():
    assert FLAGS in run(MESSAGE, "--json")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("choose another `out`", "choose another --out"),
        ("`categories`", "--category"),
        ("pass `tile`, which this command has not", "pass `tile`, which this command has not"),
        ("without marks, resume=True stays", "without marks, resume=True stays"),
        ("run `kdx calibrate BUNDLE DATA`", "run `kdx calibrate BUNDLE DATA`"),
        ("`image_size=None`", "--image-size None"),
        ("`precision='fp16'`", "--precision fp16"),
        ("`category=the 'new' (one)`", "--category the 'new' (one)"),
        ("`resume` and `resume`", "--resume and --resume"),
    ],
)
def test_nothing_else_is_changed(text, shown):
    assert f"fix: {shown}\n" in run(text)


def test_outside_a_command_texts_stay():
    assert with_flags(MESSAGE) == MESSAGE


def test_results_are_not_rewritten(capsys):
    print_json({"text": MESSAGE})
    assert "`resume=True`" in capsys.readouterr().out
