"""Under a required signature, compiled models and choices come only from a folder that nobody else
can write to."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import msgspec
import pytest

import kdx
from kdx.storage.cache import VARIABLE
from kdx.storage.private_folder import open_to_others, private_cache
from kdx.verification.remembered_choice import BackendChoice, ChoiceFile

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'kdx[sign]'")
if sys.platform == "win32":
    pytest.skip("Windows tells rights in another way", allow_module_level=True)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture
def signed(bundle_copy, tmp_path, cli) -> dict[str, object]:
    """Arguments that load a signed bundle."""
    cli("sign", "--new-key", tmp_path / "line")
    cli("sign", bundle_copy, "--key", tmp_path / "line.key")
    return {"path": bundle_copy, "require_signature": tmp_path / "line.pub", "threads": 1}


def give_away(path: Path, monkeypatch) -> None:
    """Make a file or folder another user's."""
    if os.geteuid() == 0:
        os.chown(path, 65534, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


def test_a_folder_of_ones_own_is_used(signed, cache, frame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with kdx.load(**signed, backend="openvino") as detector:
            expected = detector(frame).score
        (blob,) = (cache / "openvino").iterdir()
        assert blob.stat().st_mode & 0o777 == 0o600
        before = blob.stat().st_ino
        with kdx.load(**signed, backend="openvino") as detector:
            assert detector(frame).score == expected
        assert blob.stat().st_ino == before  # taken, not compiled and written again
        kdx.load(**signed).close()
    (choice,) = (cache / "choices").iterdir()
    assert choice.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_not(signed, cache, frame, mode) -> None:
    (cache / "openvino").mkdir(parents=True)
    (cache / "choices").mkdir()
    for folder in (cache / "openvino", cache / "choices"):
        folder.chmod(mode)
    with pytest.warns(RuntimeWarning, match=r"other users could have written(.|\n)*can be written by others"):
        kdx.load(**signed, backend="openvino").close()
    with pytest.warns(RuntimeWarning) as warned:
        kdx.load(**signed).close()
    assert any("choices" in str(each.message) for each in warned)
    assert not list(cache.rglob("*.*"))  # nothing was kept there either


@pytest.mark.slow
def test_what_others_put_there_never_runs(signed, cache, frame, tiny_bundle, tmp_path, monkeypatch) -> None:
    """A blob is whole and stands under the right key, but is of another model; a choice names
    another backend."""
    with kdx.load(**signed, backend="openvino") as detector:
        expected = detector(frame).score
    kdx.load(**signed).close()
    (choice,) = (cache / "choices").iterdir()
    remembered = msgspec.json.decode(choice.read_bytes(), type=BackendChoice)
    others = "onnxruntime-cpu" if remembered.backend == "openvino" else "openvino"
    choice.write_bytes(msgspec.json.encode(msgspec.structs.replace(remembered, backend=others)))
    for blob in (cache / "openvino").iterdir():
        blob.write_bytes(b"not whole")
    for folder in (cache / "openvino", cache / "choices"):
        folder.chmod(0o777)
    with pytest.warns(RuntimeWarning), kdx.load(**signed, backend="openvino") as detector:
        assert detector(frame).score == expected

    def nothing(file: ChoiceFile) -> None:
        assert file.path is None

    monkeypatch.setattr(ChoiceFile, "read", nothing)
    with pytest.warns(RuntimeWarning):
        kdx.load(**signed).close()


def test_without_a_signature_nothing_changes(tiny_bundle, cache) -> None:
    (cache / "openvino").mkdir(parents=True)
    (cache / "openvino").chmod(0o777)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        kdx.load(tiny_bundle, backend="openvino", threads=1).close()
    assert len(list((cache / "openvino").iterdir())) == 1


def test_every_parent_counts(tmp_path) -> None:
    folder = tmp_path / "a/b/c"
    folder.mkdir(parents=True)
    assert open_to_others(folder) == ""
    (tmp_path / "a").chmod(0o775)
    assert "a' can be written by others (mode 775)" in open_to_others(folder)
    (tmp_path / "a").chmod(0o1777)  # as /tmp: nobody can replace what stands in it
    assert open_to_others(folder) == ""
    folder.chmod(0o1777)  # but anybody can add to it
    assert "c' can be written by others" in open_to_others(folder)


def test_links_are_followed(tmp_path) -> None:
    for name in ("safe", "open"):
        (tmp_path / name / "cache").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "way").mkdir()
    (tmp_path / "way/to").symlink_to("../open/cache")
    assert "open' can be written by others" in open_to_others(tmp_path / "way/to")
    (tmp_path / "open/link").symlink_to(tmp_path / "safe/cache")  # where it leads to is up to others
    assert "open' can be written by others" in open_to_others(tmp_path / "open/link")
    (tmp_path / "way/back").symlink_to(tmp_path / "safe/cache")
    assert open_to_others(tmp_path / "way/back") == ""
    (tmp_path / "round").symlink_to("round")
    assert open_to_others(tmp_path / "round") != ""


def test_another_users_folder_is_refused(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    give_away(folder, monkeypatch)
    assert "belongs to another user" in open_to_others(folder)


def test_files_from_before_are_removed(tmp_path) -> None:
    """A folder may have been open to others once, or its files written under another umask."""
    for name, mode in (("own.blob", 0o644), ("group.blob", 0o664), ("all.blob", 0o646)):
        (tmp_path / name).write_bytes(b"")
        (tmp_path / name).chmod(mode)
    (tmp_path / "link.blob").symlink_to("own.blob")
    assert open_to_others(tmp_path) == ""
    assert [file.name for file in tmp_path.iterdir()] == ["own.blob"]


def test_a_missing_folder_is_made_for_this_user_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "some/where"))
    before = os.umask(0)
    try:
        assert private_cache("openvino") == tmp_path / "some/where/openvino"
    finally:
        os.umask(before)
    assert {folder.stat().st_mode & 0o777 for folder in (tmp_path / "some").rglob("*")} == {0o700}
    monkeypatch.setenv(VARIABLE, "")
    assert private_cache("openvino") is None
