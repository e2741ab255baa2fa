"""The one form of a result: what is continued, and what is put aside."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.results import Result, command_line, run_parts
from benchmarks.tables import TABLES, fill, lines_of, main

IDENTITY = {"machine": {"cpu": "a CPU"}, "settings": {"size": (64, 64)}}
BUDGET = {"runs": 10}


def begin(path: Path, **options) -> Result:
    return Result.resume("cpu", options.pop("identity", IDENTITY), options.pop("budget", BUDGET), path=path, **options)


def test_a_result_says_what_was_run_where_and_how(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m benchmarks cpu", str(tmp_path), "--parts", "a b"])
    begin(tmp_path / "cpu.json").put(sizes=[1])
    record = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))
    assert record.pop("load_average") >= 0
    assert record == {
        "benchmark": "cpu",
        "command": f"python -m benchmarks cpu {tmp_path.name} --parts 'a b'",
        "machine": {"cpu": "a CPU"},
        "settings": {"size": [64, 64]},
        "budget": {"runs": 10},
        "found": {"sizes": [1]},
    }


def test_a_second_call_continues_the_file(tmp_path) -> None:
    path = tmp_path / "cpu.json"
    begin(path).put(sizes=[1], taps=[2])
    again = begin(path, budget={"runs": 20})
    assert again.found == {"sizes": [1], "taps": [2]}
    assert again.record["budget"] == {"runs": 20}
    assert not again.replaced


@pytest.mark.parametrize("change", [{"machine": {"cpu": "another"}}, {"settings": {}}])
def test_another_machine_or_setting_puts_the_old_file_aside(tmp_path, change) -> None:
    path = tmp_path / "cpu.json"
    begin(path).put(sizes=[1])
    again = begin(path, identity={**IDENTITY, **change})
    assert again.found == {}
    assert again.replaced == f"another {next(iter(change))}"
    assert Result.load(tmp_path / "cpu.json.old").found == {"sizes": [1]}


def test_a_fresh_result_puts_the_old_file_aside(tmp_path) -> None:
    path = tmp_path / "cpu.json"
    begin(path).put(sizes=[1])
    assert begin(path, fresh=True).replaced == "asked to"
    assert (tmp_path / "cpu.json.old").is_file()


@pytest.mark.parametrize("content", ['{"rows": [', "[]", "{}"])
def test_a_damaged_file_is_put_aside(tmp_path, content) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(content, encoding="utf-8")
    result = begin(path)
    assert result.replaced
    assert result.found == {}
    assert (tmp_path / "cpu.json.old").read_text(encoding="utf-8") == content


def test_parts_are_measured_in_order_and_unknown_ones_are_refused(tmp_path) -> None:
    result = begin(tmp_path / "cpu.json")
    parts = {"first": lambda: 1, "second": lambda: 2}
    run_parts(result, parts, "second")
    assert result.found == {"second": 2}
    run_parts(result, parts, None)
    assert list(result.found) == ["second", "first"]
    with pytest.raises(SystemExit, match="no such part: third"):
        run_parts(result, parts, "third")


def test_paths_of_a_machine_are_not_recorded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["python -m benchmarks cpu", str(tmp_path), "--runs", "10"])
    assert str(tmp_path.parent) not in command_line()


@pytest.mark.parametrize("name", [*TABLES, "gpu"])
def test_every_table_is_rendered_from_its_committed_result(name) -> None:
    lines = lines_of(name)
    text = "\n".join(lines)
    assert len(text) > 60
    assert {line.count("|") for line in lines if line.startswith("|")} in (set(), {lines[0].count("|")})


def test_only_what_stands_between_markers_changes() -> None:
    text = "before\n<!-- table cpu -->\nold\n<!-- end -->\nafter\n"
    filled = fill(text)
    assert filled.startswith("before\n<!-- table cpu -->\n| method |")
    assert filled.endswith("<!-- end -->\nafter\n")
    assert "old" not in filled
    assert fill(filled) == filled


@pytest.mark.parametrize("words", [["--help"], ["cpu", "nothing"]])
def test_the_tables_are_named_where_another_is_asked_for(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setattr("sys.argv", ["tables", *words])
    with pytest.raises(SystemExit, match=r"There are archive, .*tiling"):
        main()
