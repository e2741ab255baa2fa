"""Keys, and a bundle that is signed with one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdx.bundle.keys import make_keys, private_key
from kdx.bundle.signing import sign_bundle

KeyPair = tuple[Path, Path]


def never() -> str:
    """Stand in for the question for a passphrase where nobody must be asked."""
    raise AssertionError("nobody must be asked for a passphrase")


def open_key(pair: KeyPair) -> Any:
    """Return the private key of a pair without a passphrase."""
    return private_key(pair[0], never)


@pytest.fixture(scope="module")
def line(tmp_path_factory) -> KeyPair:
    """The line's private and public key."""
    secret, public, _ = make_keys(tmp_path_factory.mktemp("keys") / "line")
    return secret, public


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> KeyPair:
    """The keys of somebody else."""
    secret, public, _ = make_keys(tmp_path_factory.mktemp("keys") / "stranger")
    return secret, public


@pytest.fixture
def signed(bundle_copy, line) -> Path:
    """A bundle that is signed with the line's key."""
    sign_bundle(bundle_copy, open_key(line))
    return bundle_copy
