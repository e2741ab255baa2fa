"""``kdx --help``, and what an error names as help."""

from __future__ import annotations

from pathlib import Path

import pytest

import kdx
from kdx.cli.app import app
from kdx.cli.error_output import HELP

DOCS = Path(__file__).parents[3] / "docs"
TITLES = {page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for page in DOCS.rglob("*.md")}
PAGES = [text.split('"')[1] for _, text in HELP if "documentation" in text]


def test_each_panel_of_the_help_lists_its_commands(cli):
    text = cli("--help").stdout
    for panel, command in (("Train", "fit"), ("Deploy", "export"), ("Run", "predict"), ("Monitor", "drift")):
        heading, _, below = text.partition(f"─ {panel} ─")
        assert f"│ {command} " in below.partition("╰")[0]
        assert f"│ {command} " not in heading
    assert all(each.rich_help_panel for each in app.registered_commands)


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_that_errors_name_have_these_titles(page):
    assert page in TITLES


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (kdx.KdxError("message", received="that"), "help: kdx methods --help"),
        (kdx.KdxError("message", fix="do this"), "fix: do this"),
        *((kind("message"), f"help: {text}") for kind, text in HELP),
    ],
)
def test_an_error_ends_with_what_helps(cli, monkeypatch, error, last):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr("kdx.cli.methods.print_json", fails)
    said = cli("methods", "--json", code=error.exit_status)
    assert "help" not in said.json["error"]
    monkeypatch.setattr("kdx.cli.methods.make_table", fails)
    assert cli("methods", code=error.exit_status).stderr.splitlines()[-1].strip() == last
