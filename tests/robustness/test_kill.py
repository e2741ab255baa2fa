"""Commands that are killed while they change a bundle: it is the old one or the new one, whole."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from kdx.bundle.open import open_bundle
from kdx.storage.files import new_folder, remove_leftovers, write_atomic

if sys.platform != "linux":
    pytest.skip("the tools watch and fork processes as Linux has them", allow_module_level=True)


@pytest.fixture(scope="module")
def with_engine(tiny_bundle, tmp_path_factory) -> Path:
    """A bundle with an engine of level 3, made by the recording TensorRT."""
    from kd_export.engine import build, flavours
    from tests.robustness import fake_engine

    bundle = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("engine") / "tile.kdx"))
    before = build.load_flavour, build.gpus, flavours.gpus
    fake_engine.install()
    try:
        build.build_engine(open_bundle(bundle), build.EngineRequest(flavour="tensorrt"))
    finally:
        build.load_flavour, build.gpus, flavours.gpus = before
    return bundle


@pytest.fixture(scope="module")
def found(tool, tiny_bundle, with_engine, tiny_run, dataset, tmp_path_factory) -> dict[str, Any]:
    """The results of kills and races. Commands without torch run in a process without torch."""
    work = str(tmp_path_factory.mktemp("work"))
    plain, built = ({"bundle": str(path), "work": work} for path in (tiny_bundle, with_engine))
    calibrate = ["calibrate", "{bundle}", str(dataset), "--false-reject-rate"]
    export = ["export", str(tiny_run), "-o", "{bundle}", "--max-batch", "4", "--force"]
    build = ["build-engine", "{bundle}", "--level", "1", "--force"]
    fake, coarse = "tests.robustness.fake_engine:install", "tests.robustness.tools.setups:no_exchange"
    graph = f"tests.robustness.tools.setups:graph_at_hand:{tiny_bundle}/model.onnx"
    alone = "tests.robustness.tools.setups:one_backend"
    kills = [
        {"name": "calibrate", "command": [*calibrate, "0.3"], **plain, "points": 5, "random": 2, "repeat": 1,
         "setup": [alone]},
        {"name": "first engine", "command": build, **plain, "points": 5, "repeat": 1, "setup": [fake]},
        {"name": "engine", "command": build, **built, "points": 5, "repeat": 1, "setup": [fake]},
        {"name": "engine, no exchange", "command": build, **built, "repeat": 1, "setup": [fake, coarse]},
    ]  # fmt: skip
    exports = [{"name": "export", "command": export, **plain, "points": 5, "repeat": 1, "setup": [graph, alone]}]
    two = [[*calibrate, "0.2"], [*calibrate, "0.4"]]
    found = [
        tool(
            "tests.robustness.tools.race",
            {"kills": kills, "races": [{"name": "", "commands": two, **plain, "rounds": 2, "setup": [alone]}]},
        ),
        tool("tests.robustness.tools.race", {"kills": exports}),
    ]
    return {what: [row for part in found for row in part[what]] for what in ("kills", "races")}


@pytest.mark.slow
def test_a_killed_command_loses_no_bundle(found) -> None:
    reports = {report["name"]: report for report in found["kills"]}
    assert [fault for report in reports.values() for fault in report["lost"]] == []
    for report in reports.values():
        assert report["kills"] == report["old"] + report["new"] >= 5
        assert report["events"] > 5
        assert report["repeated"] > 0
        # Before the change and after it: both were hit.
        assert report["old"] > 0
        assert report["new"] > 0
    assert reports["engine, no exchange"]["kills"] == reports["engine, no exchange"]["events"]


@pytest.mark.slow
def test_commands_at_the_same_time_leave_a_bundle_of_one_order(found) -> None:
    for race in found["races"]:
        assert race["lost"] == []
        assert race["rounds"] > 0


def test_what_a_kill_left_goes_with_the_next_write(tmp_path) -> None:
    target = tmp_path / "a.json"
    (tmp_path / ".a.json.abcd_123.part").write_text("half", encoding="utf-8")
    (tmp_path / ".tile.kdx.abcd_123.part").mkdir()
    (tmp_path / ".tile.kdx.abcd_123.part/half").write_text("half", encoding="utf-8")
    # Not ours: another target's, and names that only look alike.
    others = [".b.json.abcd_123.part", ".a.json.settings", ".a.json.abcd_123.partly", "a.json.abcd_123.part"]
    for name in others:
        (tmp_path / name).write_text("mine", encoding="utf-8")
    remove_leftovers(target)
    write_atomic(target, b"{}")
    with new_folder(tmp_path / "tile.kdx") as folder:
        (folder / "x").write_text("x", encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "a.json", "tile.kdx"])


def test_what_is_being_written_is_left_alone(tmp_path) -> None:
    with new_folder(tmp_path / "tile.kdx") as folder:
        (folder / "x").write_text("x", encoding="utf-8")
        remove_leftovers(tmp_path / "tile.kdx")
        assert (folder / "x").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["tile.kdx"]


def test_a_bundle_whose_replacement_was_killed_in_between_opens(bundle_copy) -> None:
    before = open_bundle(bundle_copy).manifest
    holder = bundle_copy.parent / ".copy.kdx.abcd_123.old"
    holder.mkdir()
    bundle_copy.rename(holder / "copy.kdx")
    assert open_bundle(bundle_copy).manifest == before
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["copy.kdx"]


def test_the_old_one_does_not_come_back_once_the_new_one_stands(bundle_copy) -> None:
    holder = bundle_copy.parent / ".copy.kdx.abcd_123.old"
    shutil.copytree(bundle_copy, holder / "copy.kdx")
    (holder / "copy.kdx/bundle.json").write_text("old", encoding="utf-8")
    remove_leftovers(bundle_copy)
    assert open_bundle(bundle_copy).manifest.threshold is not None
    assert [path.name for path in bundle_copy.parent.iterdir()] == ["copy.kdx"]


def test_half_removed_engines_are_not_found(with_engine, tmp_path) -> None:
    from kdx.bundle.engine_record import engines_of

    bundle = Path(shutil.copytree(with_engine, tmp_path / "tile.kdx"))
    (engine,) = engines_of(bundle)
    left = Path(shutil.copytree(engine.path, engine.path.parent / f".{engine.path.name}.abcd_123.part"))
    (left / "model.plan").unlink()
    assert [each.path for each in engines_of(bundle)] == [engine.path]


def test_a_link_to_a_folder_stays_one(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/old").write_text("old", encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with new_folder(tmp_path / "link", force=True) as folder:
        (folder / "new").write_text("new", encoding="utf-8")
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
