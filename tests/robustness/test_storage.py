"""Full disks and read-only folders: an error names the path, and nothing is lost or left over."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the tool mounts disks as Linux does", allow_module_level=True)

FAKE_ENGINE = {"setup": ["tests.robustness.fake_engine:install"]}


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Path:
    """Where a small disk is mounted, seen only by the command that runs on it."""
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def found(tool, disk, tiny_bundle, tiny_run, dataset, tiny_options) -> dict[str, Any]:
    """The result of every command that writes, by name: on a full disk and on a read-only one."""
    bundle, good = str(disk / "tile.kdx"), str(dataset / "test/good")
    export, train = ["export", str(tiny_run), "-o"], ["train", str(dataset), "-o", str(disk / "run"), "--epochs", "1"]
    bench = ["bench", str(tiny_bundle), "--runs", "20", "--batch", "1"]
    traced = {"setup": [f"tests.robustness.tools.setups:graph_at_hand:{tiny_bundle}/model.onnx"]}
    calibrate = ["calibrate", bundle, str(dataset), "--false-reject-rate", "0.3"]
    full = {
        "calibrate": {"command": calibrate, "again": True},
        "export": {**traced, "command": [*export, str(disk / "new.kdx")], "again": True},
        "export --force": {**traced, "command": [*export, bundle, "--force"], "free_pages": 40},
        "build-engine": {**FAKE_ENGINE, "command": ["build-engine", bundle]},
        "build-engine, the record": {
            **FAKE_ENGINE,
            "command": ["build-engine", bundle],
            "free_pages": 1,
            "again": True,
        },
        "predict": {"command": ["predict", bundle, good, "--overlay", str(disk / "maps")], "again": True},
        "predict --maps": {
            "command": ["predict", bundle, good, "-o", str(disk / "out"), "--maps", "tiff", "--csv"],
            "again": True,
        },
        "evaluate": {"command": ["evaluate", bundle, str(dataset), "--output", str(disk / "e.json")]},
        "verify": {"command": ["verify", bundle, "--output", str(disk / "v.json")]},
        "bench": {"command": [*bench, "--output", str(disk / "b.json")]},
        "train": {"command": [*train, *tiny_options], "again": True},
    }
    closed = {
        "predict": {"command": ["predict", bundle, good, "--json"]},
        "verify": {"command": ["verify", bundle]},
        "calibrate": {"command": calibrate},
        "build-engine": {**FAKE_ENGINE, "command": ["build-engine", bundle]},
        "export --force": {**traced, "command": [*export, bundle, "--force"]},
    }
    held = {"disk": str(disk), "copy": str(tiny_bundle)}
    cases = {f"full: {name}": {"free_pages": 0, **held, **case} for name, case in full.items()}
    cases |= {f"read-only: {name}": {"read_only": True, **held, **case} for name, case in closed.items()}
    for case in cases.values():
        case["setup"] = [*case.get("setup", []), "tests.robustness.tools.setups:one_backend"]
    found = tool("tests.robustness.small_disk", list(cases.values()))
    if isinstance(found, dict):
        pytest.skip(f"this system lets nobody mount a disk: {found['unable']}")
    return dict(zip(cases, found, strict=True))


WRITTEN = {
    "calibrate": "tile.kdx/bundle.json",
    "export": "new.kdx",
    "export --force": "tile.kdx",
    "build-engine": "tile.kdx/engines/tensorrt-8.6-fp32",
    "build-engine, the record": "tile.kdx/engines/tensorrt-8.6-fp32",
    "predict": "maps/012.png",
    "predict --maps": "out/verdicts.csv",
    "evaluate": "e.json",
    "verify": "v.json",
    "bench": "b.json",
    "train": "run",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", WRITTEN)
def test_a_full_disk_is_named_and_loses_nothing(found, disk, command) -> None:
    result = found[f"full: {command}"]
    assert "crashed" not in result, result["crashed"]
    assert result["status"] == 2, result
    assert f"the disk is full at '{disk / WRITTEN[command]}'" in result["stderr"]
    assert "free space" in result["stderr"]
    assert result["left"] == []
    assert result["kept"]
    assert result.get("again", 0) == 0  # once there is space


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "verify"])
def test_a_bundle_that_may_only_be_read_works(found, command) -> None:
    result = found[f"read-only: {command}"]
    assert "crashed" not in result, result
    assert result["status"] == 0, result


@pytest.mark.parametrize("command", ["calibrate", "build-engine", "export --force"])
def test_what_cannot_be_written_is_said_and_nothing_changes(found, disk, command) -> None:
    result = found[f"read-only: {command}"]
    assert "crashed" not in result, result
    assert result["status"] == 2
    where = disk if command.startswith("export") else f"{disk}/tile.kdx"
    assert f"'{where}' cannot be written" in result["stderr"]
    assert "a folder that you may write to" in result["stderr"]
    assert result["kept"]


def test_calibration_does_not_score_images_first_where_it_cannot_write(cli, bundle_copy, dataset, monkeypatch) -> None:
    scored = []
    access = os.access  # which others ask, too
    monkeypatch.setattr("kdx.storage.files.os.access", lambda path, mode: mode != os.W_OK and access(path, mode))
    monkeypatch.setattr("kdx.workflows.calibrate.calibrate_each", lambda *a, **k: scored.append(a))
    stderr = cli("calibrate", bundle_copy, dataset, code=2).stderr
    assert f"'{bundle_copy}' cannot be written" in stderr
    assert scored == []


def test_an_error_names_what_was_to_be_written_and_no_temporary_name(tmp_path, monkeypatch) -> None:
    from kdx.storage.files import new_folder, write_atomic

    with pytest.raises(OSError, match="No such") as error:
        write_atomic(tmp_path / "nowhere/a.json", b"")
    assert error.value.filename == str(tmp_path / "nowhere/a.json")
    with pytest.raises(OSError, match="No such") as error, new_folder(tmp_path / "b.kdx") as folder:
        os.stat(folder / "golden/x")  # noqa: PTH116
    assert error.value.filename == str(tmp_path / "b.kdx")


def test_parents_that_were_made_for_nothing_go_again(tmp_path) -> None:
    from kdx.storage.files import new_folder

    def fail() -> None:
        with new_folder(tmp_path / "a/b/c.kdx"):
            raise ValueError("boom")

    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="boom"):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
