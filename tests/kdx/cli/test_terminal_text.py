"""Text from files that ends in a terminal: file names, JSON strings, messages of libraries. Nothing
in it is obeyed."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from kdx.bundle.open import open_bundle
from kdx.cli import output
from kdx.errors import DataError
from kdx.progress import LineProgress
from kdx.text import visible, visible_json, without_colours

ESCAPE = "\x1b[31m\x1b]0;title\x07"
SHOWN = r"\x1b[31m\x1b]0;title\x07"

posix = pytest.mark.skipif(os.name == "nt", reason="Windows allows no such file names")


def is_plain(text: str) -> bool:
    return not any(c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160) for c in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 工件\n\tindented", "plain é 工件\n\tindented"),
        (ESCAPE, SHOWN),
        ("good\rdefective", r"good\rdefective"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),  # the control sequence introducer as one character
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\udcff.png", r"\udcff.png"),  # a file name's byte 0xff
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_json_says_the_same_and_is_not_obeyed() -> None:
    text = visible_json(json.dumps({"a": "\x9b31m\u202e"}, ensure_ascii=False))
    assert is_plain(text)
    assert json.loads(text) == {"a": "\x9b31m\u202e"}


def test_errors_quote_what_can_be_shown() -> None:
    error = DataError(f"a {ESCAPE}", expected=ESCAPE, received=ESCAPE, fix=ESCAPE)
    assert is_plain(str(error))
    assert str(error).count(SHOWN) == 4
    assert error.as_dict()["message"] == f"a {SHOWN}"


@pytest.mark.slow
@posix
def test_a_file_name_that_is_no_utf8_is_trained_on_recorded_and_resumed(cli, dataset_copy, tiny_options, tmp_path):
    data = dataset_copy.rename(tmp_path / "cells \udcfe")
    for index, path in enumerate(sorted((data / "train/good").iterdir())):
        path.rename(path.with_name(f"{index}-\udcff.png"))
    arguments = ("train", data, "-o", tmp_path / "run", "--epochs", 1, *tiny_options)
    cli(*arguments)
    record = json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))
    assert r"0-\udcff.png" in {**record["train_images"], **record["validation_images"]}
    cli(*arguments, "--resume")
    cli("export", tmp_path / "run", "-o", tmp_path / "b.kdx")


def test_the_consoles_own_colours_stay(capsys) -> None:
    console = output.SafeConsole(force_terminal=True, highlight=False, width=80, file=sys.stdout)
    console.print(f"[red]a {ESCAPE}[/]")
    console.print(output.make_table(f"title{ESCAPE}", f"head{ESCAPE}"))
    said = capsys.readouterr().out
    assert "\x1b[31ma " in said  # rich's
    assert "\x1b]0;" not in said
    assert said.count(SHOWN) == 3


@posix
def test_a_file_name_with_escapes_is_shown(cli, tiny_bundle, dataset, tmp_path) -> None:
    image = Path(shutil.copy(dataset / "test/good/012.png", tmp_path / f"{ESCAPE}.png"))
    broken = tmp_path / f"broken{ESCAPE}.png"
    broken.write_bytes(b"no image")
    result = cli("predict", tiny_bundle, image, broken, "--max-bad-images", 1)
    assert is_plain(result.stdout)
    assert is_plain(result.stderr)
    assert SHOWN in result.stdout
    assert f"broken{SHOWN}" in result.stderr
    assert cli("predict", tiny_bundle, image, "--json").lines[0]["image"] == str(image)


@posix
def test_a_line_feed_in_a_name_begins_no_line(cli, bundle_copy, dataset, tmp_path) -> None:
    name = "a\n\tdefective b.png"
    shown = r"a\n\tdefective b.png"
    folder = tmp_path / "parts"
    folder.mkdir()
    shutil.copy(dataset / "test/good/012.png", folder / name)
    watched = cli("watch", folder, "--bundle", bundle_copy, "--out", tmp_path / "out", "--once", "--settle", 0)
    assert shown in watched.stdout
    assert len(watched.stdout.splitlines()) == 1
    (folder / name).write_bytes(b"")
    for command in ("evaluate", "calibrate", "predict"):
        said = cli(command, bundle_copy, folder, code=2).stderr
        assert shown in said
        assert "\n\tdefective" not in said
    assert r"no\nthing" in cli("inspect", tmp_path / "no\nthing", code=2).stderr


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are text")
def test_a_file_name_that_is_no_text_is_shown(cli, tiny_bundle, dataset, tmp_path) -> None:
    image = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    shutil.copy(dataset / "test/good/012.png", image)
    assert r"\udcff.png" in cli("predict", tiny_bundle, image).stdout
    assert cli("predict", tiny_bundle, image, "--json").lines[0]["image"].endswith(r"/\udcff.png")


def test_an_option_that_is_a_file_name_is_shown(cli, tiny_bundle) -> None:
    # What a shell makes of * where a file's name begins with a dash.
    stderr = cli("predict", tiny_bundle, f"--{ESCAPE}", code=2).stderr
    assert is_plain(stderr)
    assert "x1b" in stderr


def test_strings_of_a_bundle_are_shown(cli, bundle_copy) -> None:
    index = bundle_copy / "bundle.json"
    manifest = open_bundle(bundle_copy).manifest
    provenance = msgspec.structs.replace(manifest.provenance, weights=f"file {ESCAPE}")
    index.write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, provenance=provenance)))
    said = cli("inspect", bundle_copy)
    assert is_plain(said.stdout + said.stderr)
    assert SHOWN in said.stdout
    data = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps({**data, "files": {ESCAPE: "0" * 64}}), encoding="utf-8")
    said = cli("inspect", bundle_copy, code=2)
    assert is_plain(said.stdout + said.stderr)


def test_pickled_weights_are_refused_without_torchs_colours(cli, dataset, tmp_path, tiny_options) -> None:
    import torch

    class Trap:
        def __reduce__(self):
            return print, ("fell",)

    torch.save({"state_dict": Trap()}, tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError, match="\x1b"):
        torch.load(tmp_path / "w.pth", weights_only=True)  # torch writes for a terminal
    options = [*tiny_options, "--weights", tmp_path / "w.pth"]
    stderr = cli("train", dataset, "-o", tmp_path / "run", "--epochs", 1, *options, code=2).stderr
    assert is_plain(stderr)
    assert "x1b" not in stderr
    assert "cannot be read as weights" in stderr


def test_colours_are_taken_out_of_a_librarys_message() -> None:
    assert without_colours("you have \x1b[1mtwo\x1b[0;31m options\x1b[m") == "you have two options"


def test_brackets_in_paths_are_no_style_and_commands_can_be_copied(cli, bundle_copy, dataset, tmp_path) -> None:
    folder = tmp_path / "old parts [red]"
    folder.mkdir()
    bundle = Path(shutil.move(bundle_copy, folder / "tile [v2].kdx"))
    data = Path(shutil.copytree(dataset, folder / "data"))
    (data / "test/scratch").rename(data / "test/[scratch]")
    (data / "ground_truth/scratch").rename(data / "ground_truth/[scratch]")
    assert str(bundle) in cli("calibrate", bundle, data, "--false-reject-rate", 0.2).stdout
    evaluated = cli("evaluate", bundle, data).stdout
    assert str(bundle) in evaluated
    assert "[scratch]" in evaluated
    assert str(bundle) in cli("inspect", bundle).stdout
    assert bundle.name in cli("verify", bundle).stdout
    assert str(bundle) in cli("roi", bundle).stdout
    overlay = tmp_path / "maps [1]"
    assert f"heat maps in {overlay}/" in cli("predict", bundle, data / "test", "--overlay", overlay).stdout


def test_the_next_command_quotes_paths(cli, tiny_run, tmp_path) -> None:
    bundle = tmp_path / "new [v2] part.kdx"
    said = cli("export", tiny_run, "-o", bundle).stdout
    assert f"next: kdx calibrate '{bundle}' DATA --false-reject-rate 0.15" in said, "6 images were held out"


def test_windows_pipes_get_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, expected in (("win32", "größer │ ≥".encode()), ("linux", None)):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", write_through=True))
        output.write_utf8()
        if expected is None:
            assert sys.stdout.encoding == "cp1252", "the user's own choice"
        else:
            sys.stdout.write("größer │ ≥")
            assert written.getvalue() == expected


def test_bars_leave_nothing_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress_for(as_json=False).task("training", 2) as task:
        task.advance(1, "epoch 1/2")
    assert capsys.readouterr() == ("", "")


def test_where_there_is_no_terminal_a_line_a_minute_says_how_far_a_task_is() -> None:
    now, said = [0.0], list[str]()
    progress = LineProgress(said.append, clock=lambda: now[0])
    with progress.task("training", 4) as task:
        for seconds in (30, 61, 100, 130):
            now[0] = seconds
            task.advance(1, f"epoch {seconds}")
    assert said == ["training, 2 of 4: epoch 61", "training, 4 of 4: epoch 130"]
