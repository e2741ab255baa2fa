"""A file whose hash is known is read unchanged, or an error says what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdx.errors import BackendError, BundleError
from kdx.storage.files import sha256_bytes
from kdx.storage.hashed_file import HashedFile
from tests.platforms import needs_links, needs_posix

CONTENT = b"weights"
HASH = sha256_bytes(CONTENT)


def test_the_content_with_the_hash_is_returned(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    assert HashedFile(tmp_path, "model.onnx", HASH, BundleError, "").read() == CONTENT


def test_another_content_is_an_error_of_the_given_kind_with_both_hashes(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(BackendError, match=r"'model\.onnx' in '.*' was altered") as caught:
        HashedFile(tmp_path, "model.onnx", HASH, BackendError, "copy it again").read()
    assert caught.value.expected == f"sha256 {HASH}"
    assert caught.value.received == f"sha256 {sha256_bytes(b'other')}"
    assert caught.value.fix == "copy it again"


def test_the_hash_of_another_content_can_be_withheld(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError) as caught:
        HashedFile(tmp_path, "model.onnx", HASH, BundleError, "", received="a link").read()
    assert caught.value.received == "a link"
    assert sha256_bytes(b"other") not in str(caught.value)


def test_a_file_is_checked_without_being_held_in_memory(tmp_path, monkeypatch) -> None:
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    (tmp_path / "other").write_bytes(b"other")
    monkeypatch.setattr(Path, "read_bytes", lambda file: pytest.fail(f"{file} was read whole"))
    HashedFile(tmp_path, "model.onnx", HASH, BundleError, "").check()
    with pytest.raises(BundleError, match=r"'other' in '.*' was altered"):
        HashedFile(tmp_path, "other", HASH, BundleError, "").check()


@needs_posix
@needs_links
def test_what_is_no_file_is_called_what_it_is(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # is not waited for
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    (tmp_path / "dangling").symlink_to("../blobs/abc")
    said = {
        "none": "'none' is missing from",
        "none/file": "'none/file' is missing from",
        "folder": "'folder' in '.*' is not a file",
        "pipe": "'pipe' in '.*' is not a file",
        "loop": "'loop' in '.*' is a link that leads back to itself",
        "loop/file": "'loop/file' in '.*' is a link that leads back to itself",
        "one": "'one' in '.*' is a link that leads back to itself",
        "dangling": r"'dangling' in '.*' is a link to '\.\./blobs/abc', which does not exist",
    }
    for name, text in said.items():
        for use in (HashedFile.read, HashedFile.check):
            with pytest.raises(BundleError, match=text):
                use(HashedFile(tmp_path, name, HASH, BundleError, ""))


def test_a_name_that_the_system_does_not_accept_is_shortened(tmp_path) -> None:
    with pytest.raises(BundleError) as caught:
        HashedFile(tmp_path, "x" * 5000, HASH, BundleError, "").read()
    assert len(caught.value.message) < 1000
