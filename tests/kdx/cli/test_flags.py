"""Parameters that the library's messages name are the command's options on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from kdx.cli.error_output import Command
from kdx.cli.output import print_json
from kdx.errors import OutputError
from kdx.remarks import remark
from kdx.storage.json_output import encode_json, write_json
from kdx.text import spelled

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
    assert spelled(MESSAGE) == MESSAGE


RESULT = {
    "advice": ["more time: a larger `size`"],
    "compact_choice": "not compared: pass `resume=True`",
    "remarks": remark("odd", "images are odd: pass `resume=True`", ["`resume=True`.png"]),
    "refused": {"int8": {"openvino": "use `image_size=64`"}},
    "error": {"message": "no `out`", "fix": "pass `resume=True`"},
    "bundle": Path("`resume=True`.kdx"),
}


def test_messages_in_results_name_flags_and_paths_stay(tmp_path):
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command(cls=Command)
    def works(
        resume: Annotated[bool, typer.Option("--resume")] = False,
        size: Annotated[int, typer.Option("--image-size")] = 0,
        out: Annotated[Path, typer.Option("--out", "-o")] = HERE,
    ) -> None:
        print_json(RESULT)
        write_json(tmp_path / "report.json", RESULT)

    printed = CliRunner().invoke(app, []).stdout
    assert (tmp_path / "report.json").read_text(encoding="utf-8") == printed
    assert json.loads(printed) == {
        "advice": ["more time: a larger --image-size"],
        "compact_choice": "not compared: pass --resume",
        "remarks": [
            {"kind": "odd", "text": "images are odd: pass --resume", "count": 1, "first": ["`resume=True`.png"]}
        ],
        "refused": {"int8": {"openvino": "use --image-size 64"}},
        "error": {"message": "no --out", "fix": "pass --resume"},
        "bundle": "`resume=True`.kdx",
    }


def test_results_of_python_calls_name_parameters():
    assert json.loads(encode_json(RESULT))["error"]["fix"] == "pass `resume=True`"
