"""Outputs that exist or cannot be written: what was there stands, and nothing half written is
left."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from kdx.__main__ import main
from kdx.bundle.open import open_bundle


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def export(cli, tmp_path):
    return lambda run, *options, code=2: cli("export", run, "-o", tmp_path / "out.kdx", *options, code=code)


def test_train_does_not_replace_a_run(cli, run_copy, dataset, tiny_options):
    before = content_of(run_copy)
    stderr = cli("train", dataset, "-o", run_copy, "--epochs", 1, *tiny_options, code=2).stderr
    assert f"'{run_copy}' holds a run already" in stderr
    assert "nothing is left to continue: pass --force to replace it, or choose another --out" in stderr
    assert content_of(run_copy) == before
    (run_copy / "last.json").unlink()
    stderr = cli("train", dataset, "-o", run_copy, "--epochs", 1, *tiny_options, code=2).stderr
    assert "pass --resume to continue it, or --force to replace it, or choose another --out" in stderr


def test_train_replaces_a_run_with_force(cli, run_copy, dataset, tiny_options):
    cli("train", dataset, "-o", run_copy, "--epochs", 1, "--seed", 5, *tiny_options, "--force")
    assert json.loads((run_copy / "last.json").read_text(encoding="utf-8"))["epoch"] == 1
    assert json.loads((run_copy / "run.json").read_text(encoding="utf-8"))["seed"] == 5


@pytest.mark.parametrize("options", [(), ("--force",), ("--resume",)])
def test_train_never_touches_a_folder_that_is_no_run(cli, dataset, tiny_options, tmp_path, options):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.json").write_text("{}", encoding="utf-8")
    stderr = cli("train", dataset, "-o", tmp_path / "mine", "--epochs", 1, *tiny_options, *options, code=2).stderr
    assert "is not a run folder" in stderr
    assert (tmp_path / "mine/precious.json").exists()


def test_export_does_not_replace_a_bundle(cli, tiny_run, bundle_copy):
    before = content_of(bundle_copy)
    stderr = cli("export", tiny_run, "-o", bundle_copy, code=2).stderr
    assert f"'{bundle_copy}' exists already" in stderr
    assert "--force" in stderr
    assert content_of(bundle_copy) == before


@pytest.mark.slow
def test_export_replaces_a_bundle_with_force(cli, tiny_run, bundle_copy):
    assert open_bundle(bundle_copy).manifest.threshold is not None
    cli("export", tiny_run, "-o", bundle_copy, "--force")
    assert open_bundle(bundle_copy).manifest.threshold is None
    assert [path.name for path in bundle_copy.parent.iterdir()] == [bundle_copy.name]


def test_force_replaces_bundles_only(cli, tiny_run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.txt").write_text("thesis", encoding="utf-8")
    cli("export", tiny_run, "-o", tmp_path / "mine", "--force", code=None)
    assert (tmp_path / "mine/precious.txt").exists()


def raising(code: int, where: str = ""):
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code), where)

    return fail


def test_an_output_under_a_file_is_refused_before_any_work(cli, tiny_bundle, dataset, tmp_path, monkeypatch):
    (tmp_path / "notes").write_text("no folder", encoding="utf-8")
    monkeypatch.setattr("kdx.workflows.evaluate.evaluate", None)  # not reached
    output = tmp_path / "notes/sub/figures.json"
    stderr = cli("evaluate", tiny_bundle, dataset, "--output", output, code=2).stderr
    assert f"'{output}' cannot be written: '{tmp_path / 'notes'}' is a file" in stderr


def test_errors_of_the_system_say_how_to_continue(cli, tiny_bundle, dataset, tmp_path):
    (tmp_path / "notes").write_text("no folder", encoding="utf-8")
    stderr = cli("train", dataset, "-o", tmp_path / "notes", code=2).stderr
    assert "fix: choose another path: a file stands where a folder is needed" in stderr
    stderr = cli("verify", tiny_bundle, "--output", tmp_path / ("long" * 100), code=2).stderr
    assert "help: kdx verify --help" in stderr


def test_keys_need_a_name(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--new-key names no file" in cli("sign", "--new-key", "", code=2).stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(cli, tiny_run, dataset, tiny_options, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert "ermission" in cli("export", tiny_run, "-o", closed / "b.kdx", code=2).stderr
    assert "ermission" in cli("train", dataset, "-o", closed / "run", "--epochs", 1, *tiny_options, code=2).stderr


def test_export_without_permission(export, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("kdx.storage.files.tempfile.mkdtemp", raising(errno.EACCES, "/closed"))
    stderr = export(tiny_run).stderr
    assert "no permission at '/closed': Permission denied" in stderr
    assert "choose a folder that you may write to" in stderr
    assert not list(tmp_path.iterdir())


def test_train_without_permission(cli, dataset, tiny_options, tmp_path, monkeypatch):
    monkeypatch.setattr("kdx.storage.files.tempfile.mkstemp", raising(errno.EACCES, "/closed"))
    stderr = cli("train", dataset, "-o", tmp_path / "run", "--epochs", 1, *tiny_options, code=2).stderr
    assert "no permission at '/closed': Permission denied" in stderr


def test_calibrate_without_permission_keeps_the_bundle(cli, bundle_copy, dataset, monkeypatch):
    before = content_of(bundle_copy)
    monkeypatch.setattr("kdx.storage.files.tempfile.mkstemp", raising(errno.EACCES, "/closed"))
    stderr = cli("calibrate", bundle_copy, dataset, "--false-reject-rate", 0.3, code=2).stderr
    assert "no permission" in stderr
    assert content_of(bundle_copy) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    ["kd_export.onnx.onnx_export.onnx.save_model", "kd_export.bundle_export.write_files", "kdx.storage.files.os.fsync"],
)
def test_a_full_disk_leaves_no_half_bundle(export, tiny_run, tmp_path, monkeypatch, where):
    monkeypatch.setattr(where, raising(errno.ENOSPC))
    stderr = export(tiny_run).stderr
    assert "the disk is full" in stderr
    assert "free space" in stderr
    assert not list(tmp_path.iterdir())  # no bundle, no temporary folder


@pytest.mark.slow
def test_a_full_disk_keeps_the_bundle_that_force_was_to_replace(cli, tiny_run, bundle_copy, monkeypatch):
    before = content_of(bundle_copy.parent)
    monkeypatch.setattr("kdx.storage.files.os.fsync", raising(errno.ENOSPC))
    assert "the disk is full" in cli("export", tiny_run, "-o", bundle_copy, "--force", code=2).stderr
    assert content_of(bundle_copy.parent) == before


@pytest.mark.slow
def test_a_failed_gate_leaves_no_bundle(export, tiny_run, tmp_path, monkeypatch):
    from kdx.verification.tolerances import TOLERANCES, Tolerances

    monkeypatch.setitem(TOLERANCES, "fp32", Tolerances(-1.0, -1.0, 0.0))
    stderr = export(tiny_run, code=1).stderr
    assert "does not decide what was trained" in stderr
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_old_threshold(cli, bundle_copy, dataset, monkeypatch):
    before = content_of(bundle_copy)
    monkeypatch.setattr("kdx.storage.files.os.fsync", raising(errno.ENOSPC))
    assert "the disk is full" in cli("calibrate", bundle_copy, dataset, "--false-reject-rate", 0.3, code=2).stderr
    assert content_of(bundle_copy) == before


def test_a_full_disk_keeps_the_last_checkpoint(cli, run_copy, dataset, tiny_options, monkeypatch):
    arguments = ("train", dataset, "-o", run_copy, "--epochs", 2, *tiny_options)
    shutil.rmtree(run_copy)
    real = os.fsync
    calls = []

    def full_after_the_first_epoch(handle: int) -> None:
        calls.append(handle)
        if (run_copy / "last.json").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr("kdx.storage.files.os.fsync", full_after_the_first_epoch)
        # Closing a folder's handle after last.json is best effort; the second epoch's tensors meet
        # the full disk.
        stderr = cli(*arguments, code=2).stderr
    assert "the disk is full" in stderr
    assert json.loads((run_copy / "last.json").read_text(encoding="utf-8"))["epoch"] == 1
    assert not list(run_copy.glob(".*"))
    command = stderr.partition("fix: free space, and continue: kdx ")[2]
    assert "resumed after epoch 1" in cli(*shlex.split(command)).stdout


def test_after_a_full_disk_the_same_call_works(cli, dataset, tiny_options, tmp_path, monkeypatch):
    arguments = ("train", dataset, "-o", tmp_path / "run", "--epochs", 1, *tiny_options)
    with monkeypatch.context() as patch:
        patch.setattr("kdx.storage.files.os.fsync", raising(errno.ENOSPC))
        cli(*arguments, code=2)
    cli(*arguments)


@pytest.mark.parametrize("command", ["verify", "bench", "evaluate"])
def test_a_result_file_is_replaced_only_with_force(cli, bundle_copy, dataset, tmp_path, command):
    (tmp_path / "result.json").write_text("mine", encoding="utf-8")
    arguments = [command, bundle_copy, *([dataset] if command == "evaluate" else [])]
    assert "exists already" in cli(*arguments, "--output", tmp_path / "result.json", code=2).stderr
    assert (tmp_path / "result.json").read_text(encoding="utf-8") == "mine"
    options = ("--runs", 20, "--batch", 1) if command == "bench" else ()
    cli(*arguments, *options, "--output", tmp_path / "result.json", "--force")
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))


def test_a_heat_map_replaces_only_with_force(cli, tiny_bundle, dataset, tmp_path):
    image = dataset / "test/good/012.png"
    (tmp_path / "012.png").write_bytes(b"mine")
    assert "exists already" in cli("predict", tiny_bundle, image, "--overlay", tmp_path, code=2).stderr
    assert (tmp_path / "012.png").read_bytes() == b"mine"
    cli("predict", tiny_bundle, image, "--overlay", tmp_path, "--force")
    assert (tmp_path / "012.png").read_bytes() != b"mine"


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "renamed twice"])
def test_a_folder_is_replaced_whole(tmp_path, monkeypatch, exchange):
    from kdx.storage import files

    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/old").write_text("old", encoding="utf-8")
    with files.new_folder(tmp_path / "x", force=True) as folder:
        (folder / "new").write_text("new", encoding="utf-8")
        assert (tmp_path / "x/old").exists()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_old_folder_survives_a_failed_replacement(tmp_path, monkeypatch):
    from kdx.storage import files

    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/old").write_text("old", encoding="utf-8")
    real = Path.rename

    def fail_for_the_new(self, target):
        if self.name.startswith(".x.") and self.parent == tmp_path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(OSError, match="error"), files.new_folder(tmp_path / "x", force=True) as folder:
        (folder / "new").write_text("new", encoding="utf-8")
    assert (tmp_path / "x/old").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_pair_that_cannot_be_deployed_leaves_the_earlier_run(cli, run_copy, dataset, tiny_options, monkeypatch):
    from kdx.errors import GateError

    def misfit(*args: object) -> None:
        raise GateError("folding changed the features")

    monkeypatch.setattr("kd_train.training.train.fuse", misfit)
    before = content_of(run_copy)
    cli("train", dataset, "-o", run_copy, "--epochs", 1, "--force", *tiny_options, code=1)
    assert content_of(run_copy) == before


@pytest.mark.parametrize("command", ["verify", "bench", "evaluate"])
def test_a_result_is_printed_if_its_file_cannot_be_written(cli, tiny_bundle, dataset, tmp_path, monkeypatch, command):
    options = {"verify": (), "bench": ("--runs", 20, "--batch", 1), "evaluate": (dataset,)}[command]
    monkeypatch.setattr("kdx.storage.files.os.fsync", raising(errno.ENOSPC))
    result = cli(command, tiny_bundle, *options, "--output", tmp_path / "result.json", code=2)
    assert "the disk is full" in result.stderr
    assert "onnxruntime-cpu" in result.stdout or "image AUROC" in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["verify", "bench", "evaluate", "report"])
def test_an_output_in_a_closed_folder_is_refused_first(cli, tiny_bundle, dataset, tmp_path, monkeypatch, command):
    monkeypatch.setattr("kdx.storage.files.os.access", lambda path, _: Path(path) != tmp_path)
    for module in ("evaluate", "report.write"):  # imported first, these keep their own
        import_module(f"kdx.workflows.{module}")
    monkeypatch.setattr("kdx.bundle.open.open_bundle", None)  # no work begins
    option = "--out" if command == "report" else "--output"
    arguments = [command, tiny_bundle, *([dataset] if command in {"evaluate", "report"} else [])]
    stderr = cli(*arguments, option, tmp_path / "new" / "result.json", code=2).stderr
    assert f"'{tmp_path}' cannot be written" in stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither /dev/full nor SIGPIPE")
@pytest.mark.parametrize("log", ["on a full disk", "without a reader"])
def test_a_log_that_cannot_be_written_changes_no_result(log):
    """Neither what another thread does, nor standard output, nor the exit status."""
    script = """
import threading
from kdx.cli import app
from kdx.cli.output import out, print_json_line, say

def work():
    for _ in range(200):  # more than a buffer holds
        say(100 * "a note ")
    print_json_line("delivered")

def judge():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    out.print("judged")

app.app = judge
app.run()
"""
    if log == "on a full disk":
        writing = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, writing = os.pipe()
        os.close(reading)
    try:
        done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=writing, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stdout) == (0, b'"delivered"\njudged\n')


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["methods"]])
def test_whoever_reads_the_output_may_leave(arguments):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "kdx", *arguments], stdout=writing, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(os.name == "nt", reason="the shell closes the streams")
@pytest.mark.parametrize("arguments", [["inspect", "none.kdx"], ["inspect", "none.kdx", "--json"], ["--version"]])
def test_a_command_whose_streams_are_closed_ends_as_it_does_with_them(arguments, tmp_path):
    command = [sys.executable, "-m", "kdx", *arguments]
    status = 0 if arguments == ["--version"] else 2
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr + done.stdout) == (status, False)


def test_an_interrupt_while_the_commands_are_imported_is_no_traceback(monkeypatch, capsys):
    class Interrupts:
        def find_spec(self, name, *_rest):
            if name == "kdx.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "kdx.cli.app", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupts(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted before anything began\n"


WRITERS = (
    *("watch", "serve", "report", "export", "fit", "train", "distil", "train-many", "triton", "reproduce", "demo"),
    *("verify", "bench", "evaluate", "repeat", "roi", "sign"),
)


@pytest.mark.parametrize("command", WRITERS)
def test_nothing_is_written_into_a_bundle_or_a_run_which_are_replaced_as_a_whole(
    cli, bundle_copy, run_copy, tiny_run, tiny_bundle, dataset, tiny_options, tmp_path, command
):
    (tmp_path / "in").mkdir()
    (tmp_path / "catalog.toml").write_text(f"[products.a]\ndata = '{dataset}'\n", encoding="utf-8")
    for folder, kind in ((bundle_copy, "bundle"), (run_copy, "run")):
        before, inside = content_of(folder), folder / "line/x"
        arguments = {
            "watch": (tmp_path / "in", "--bundle", bundle_copy, "--out", inside, "--once"),
            "serve": (bundle_copy, "--data", inside, "--port", 0),
            "report": (bundle_copy, dataset, "-o", inside),
            "export": (tiny_run, "-o", inside),
            "fit": (dataset, "--budget-ms", 1000, "-o", inside),
            "train": (dataset, "-o", inside, *tiny_options),
            "distil": (dataset, "-o", inside),
            "train-many": (tmp_path / "catalog.toml", "-o", inside),
            "triton": (tiny_bundle, "-o", inside),
            "reproduce": ("stpm", "--data", dataset, "-o", inside),
            "demo": ("-o", inside),
            "verify": (tiny_bundle, "--output", inside),
            "bench": (tiny_bundle, "--output", inside),
            "evaluate": (tiny_bundle, dataset, "--output", inside),
            "repeat": (tiny_bundle, dataset / "train/good", "--picture", inside.with_suffix(".png")),
            "roi": (tiny_bundle, "--from-images", dataset, "--output", inside.with_suffix(".png")),
            "sign": ("--new-key", inside),
        }[command]
        stderr = cli(command, *arguments, code=2).stderr
        assert f"the output would lie in '{folder}', which is a {kind}" in stderr
        assert content_of(folder) == before


@pytest.mark.parametrize("command", ["train", "distil"])
def test_no_run_begins_in_a_bundle_or_another_run(cli, bundle_copy, run_copy, dataset, command):
    for folder, kind in ((bundle_copy, "bundle"), (run_copy, "run")):
        before = content_of(folder)
        for resume in ((), ("--resume",)):
            stderr = cli(command, dataset, "--out", folder / "line/x", *resume, code=2).stderr
            assert f"the output would lie in '{folder}', which is a {kind}" in stderr
            assert f"received: --out {folder / 'line/x'}" in stderr
        assert content_of(folder) == before


def test_an_export_says_at_once_that_its_bundle_is_there(cli, tiny_run, bundle_copy, monkeypatch):
    def too_late(*_: object) -> None:
        raise AssertionError("the checkpoint was loaded before")

    monkeypatch.setattr("kd_train.training.trained_pair.load_pair", too_late)
    assert "exists already" in cli("export", tiny_run, "-o", bundle_copy, code=2).stderr
