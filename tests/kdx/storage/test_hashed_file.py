"""A file whose hash is known is read unchanged, or an error says what is wrong."""

from __future__ import annotations

import os

import pytest

from kdx.errors import BackendError, BundleError
from kdx.storage.files import sha256_bytes
from kdx.storage.hashed_file import read_hashed

CONTENT = b"weights"
HASH = sha256_bytes(CONTENT)


def test_the_content_with_the_hash_is_returned(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    assert read_hashed(tmp_path, "model.onnx", HASH, error=BundleError, fix="") == CONTENT


def test_another_content_is_an_error_of_the_given_kind_with_both_hashes(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(BackendError, match=r"'model\.onnx' in '.*' was altered") as caught:
        read_hashed(tmp_path, "model.onnx", HASH, error=BackendError, fix="copy it again")
    assert caught.value.expected == f"sha256 {HASH}"
    assert caught.value.received == f"sha256 {sha256_bytes(b'other')}"
    assert caught.value.fix == "copy it again"


def test_the_hash_of_another_content_can_be_withheld(tmp_path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError) as caught:
        read_hashed(tmp_path, "model.onnx", HASH, error=BundleError, received="a link", fix="")
    assert caught.value.received == "a link"
    assert sha256_bytes(b"other") not in str(caught.value)


def test_a_missing_file_and_a_folder_are_missing(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("none", "folder"):
        with pytest.raises(BundleError, match=f"'{name}' is missing from"):
            read_hashed(tmp_path, name, HASH, error=BundleError, fix="")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="is missing"):
        read_hashed(tmp_path, "pipe", HASH, error=BundleError, fix="")


def test_a_name_that_the_system_does_not_accept_is_shortened(tmp_path) -> None:
    with pytest.raises(BundleError) as caught:
        read_hashed(tmp_path, "x" * 5000, HASH, error=BundleError, fix="")
    assert len(caught.value.message) < 1000
