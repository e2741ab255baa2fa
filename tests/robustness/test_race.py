"""Commands that change one bundle at the same time."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

import kdx
from kdx.bundle import index as index_module
from kdx.bundle import store as store_module
from kdx.bundle.bundle import Bundle
from kdx.bundle.open import open_bundle
from kdx.bundle.store import with_file, write_manifest
from kdx.errors import BundleError, OutputError
from kdx.storage import locks
from kdx.storage.files import new_folder, sha256_bytes
from kdx.storage.locks import locked

if sys.platform == "win32":
    pytest.skip("Windows has no locks on folders", allow_module_level=True)


def replace(bundle: Path) -> None:
    """Put another bundle in the place of one, as an export does."""
    old = open_bundle(bundle)
    with new_folder(bundle, force=True) as folder:
        shutil.copytree(old.path, folder, dirs_exist_ok=True)
        (folder / "training_images.json").write_bytes(b"[]")
        write_manifest(folder, msgspec.structs.replace(old.manifest, threshold=None))


def test_an_index_never_meets_another_graph(bundle_copy, monkeypatch) -> None:
    """An export waits while a calibration of the bundle that it replaces is being written."""
    opened = open_bundle(bundle_copy)
    real, events = index_module.write_parts, []

    def export() -> None:
        replace(bundle_copy)
        events.append("replaced")

    exporter = threading.Thread(target=export)

    def slow(*arguments: object, **options: object) -> None:
        is_calibration = threading.current_thread() is not exporter
        if is_calibration:
            exporter.start()
            exporter.join(0.5)
        real(*arguments, **options)
        events.extend(["calibrated"] if is_calibration else [])

    monkeypatch.setattr(index_module, "write_parts", slow)
    opened.with_thresholds(opened.manifest.threshold)
    exporter.join()
    assert events == ["calibrated", "replaced"]
    assert open_bundle(bundle_copy).manifest.threshold is None  # the exported one, whole


def test_a_calibration_of_a_replaced_bundle_is_refused(bundle_copy) -> None:
    opened = open_bundle(bundle_copy)
    replace(bundle_copy)
    with pytest.raises(BundleError, match="was replaced while it was calibrated"):
        opened.with_thresholds(opened.manifest.threshold)
    assert open_bundle(bundle_copy).manifest.threshold is None


def calibrate(bundle: Path) -> None:
    opened = open_bundle(bundle)
    opened.with_thresholds(msgspec.structs.replace(opened.manifest.threshold, created="later"))


def build_again(bundle: Path) -> None:
    with new_folder(bundle / "engines/old", force=True) as folder:
        (folder / "engine.plan").write_bytes(b"new")


CHANGES = {
    "calibrated": calibrate,
    "another file": lambda bundle: with_file(open_bundle(bundle), "roi.png", b"of the first call"),
    "an engine": lambda bundle: (bundle / "engines/new").mkdir(parents=True),
    "an engine that is built again": build_again,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_of_two_changes_of_a_bundle_the_second_is_refused(bundle_copy, monkeypatch, change) -> None:
    """The second has copied the bundle before the first changes it, and would undo that."""
    real, changed = store_module.write_atomic, []
    (bundle_copy / "engines/old").mkdir(parents=True)
    (bundle_copy / "engines/old/engine.plan").write_bytes(b"old")

    def write(path: Path, data: bytes) -> None:
        monkeypatch.undo()
        change(bundle_copy)
        changed.extend([(bundle_copy / "bundle.json").read_bytes(), sorted(bundle_copy.rglob("*"))])
        real(path, data)

    monkeypatch.setattr(store_module, "write_atomic", write)
    with pytest.raises(BundleError, match="was changed by another call meanwhile"):
        with_file(open_bundle(bundle_copy), "roi.png", b"of the second call")
    assert [(bundle_copy / "bundle.json").read_bytes(), sorted(bundle_copy.rglob("*"))] == changed
    assert not list(bundle_copy.parent.glob(".*"))
    assert with_file(open_bundle(bundle_copy), "roi.png", b"again").manifest.roi_sha256 == sha256_bytes(b"again")


def test_a_bundle_that_is_replaced_while_it_is_loaded_is_refused(bundle_copy, monkeypatch) -> None:
    """Between the check of a graph's hash and its reading lies time enough for an export."""
    real = Bundle.graph_of

    def replaced_meanwhile(self: Bundle, precision: str) -> Path:
        monkeypatch.undo()
        replace(bundle_copy)
        return real(self, precision)

    monkeypatch.setattr(Bundle, "graph_of", replaced_meanwhile)
    with pytest.raises(BundleError, match="was replaced while it was loaded"):
        kdx.load(bundle_copy, backend="onnxruntime-cpu", threads=1)
    kdx.load(bundle_copy, backend="onnxruntime-cpu", threads=1).close()


def test_of_two_that_make_one_folder_the_second_is_refused(tmp_path) -> None:
    def make(content: str, meanwhile: str = "") -> None:
        with new_folder(tmp_path / "x") as folder:
            (folder / content).write_text(content, encoding="utf-8")
            if meanwhile:
                make(meanwhile)

    with pytest.raises(OutputError, match="exists already"):
        make("second", meanwhile="first")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_lock_is_had_by_one_at_a_time(tmp_path) -> None:
    inside, most = [], []

    def work() -> None:
        for _ in range(5):
            with locked(tmp_path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 30


def test_a_lock_that_is_never_let_go_is_reported(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_SECONDS", 0.05)
    handles = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    with locked(tmp_path), pytest.raises(OutputError, match="another process is changing"), locked(tmp_path):
        pass
    if handles:
        assert len(list(Path("/proc/self/fd").iterdir())) == handles


def test_where_nothing_can_be_locked_the_work_continues(tmp_path, monkeypatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    (tmp_path / ".x.abcd_123.part").mkdir()
    with new_folder(tmp_path / "x") as folder:
        (folder / "1").write_text("1", encoding="utf-8")
    # Whether its writer lives is unknown: it stays.
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.abcd_123.part", "x"]
