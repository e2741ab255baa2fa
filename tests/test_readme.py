"""What the README says must be so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_are_those_of_the_results() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "tables", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_table_is_filled() -> None:
    for body in re.findall(r"<!-- table \w+ -->\n(.*?)<!-- end -->", README, re.DOTALL):
        assert len(body) > 200


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"^kdx ([a-z-]+) ", "".join(README.split("```")[1::2]), re.MULTILINE)))
)
def test_every_command_exists_with_its_options(command: str, cli, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # narrower, long options are cut off
    text = cli(command, "--help").stdout
    for line in re.findall(rf"^kdx {command} [^#\n]*", README, re.MULTILINE):
        for option in re.findall(r"--[a-z-]+", line):
            assert option in text


def test_the_minimal_program_is_the_one_that_is_built() -> None:
    assert (ROOT / "embed/examples/minimal/minimal.cpp").read_text(encoding="utf-8") in README


def test_the_two_commands_are_the_first_two() -> None:
    block = README.split("```")[1]
    lines = [line.split("#")[0].strip() for line in block.strip().splitlines()]
    assert lines == ['pip install -e ".[demo]" && kdx demo', 'pip install -e ".[test]" && pytest']
