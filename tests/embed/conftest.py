"""Fixtures for the tests of ``embed/``: the library, built once, and bundles for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.embed.build import PRECISIONS, build
from tests.once import made_once

# The C and C++ tests that call exported functions alone, as programs do. test_sanitized.py builds
# and runs all of them.
LIBRARY_TESTS = ("calls", "calls_c", "failed_calls")
TARGETS = (
    "kdx",
    *(f"kdx_{name}" for name in LIBRARY_TESTS),
    "kdx_pixel_formats",
    "minimal_c",
    "minimal_cpp",
    "line_cpp",
)


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The build folder, with tests of the library and examples."""
    options = ("-DKDX_BUILD_TESTS=ON", "-DKDX_BUILD_EXAMPLES=ON")
    return made_once(tmp_path_factory, "release", lambda folder: build(folder, TARGETS, *options))


@pytest.fixture(scope="session")
def library(built) -> Path:
    return built / "libkdx.so"


@pytest.fixture(scope="session")
def bundle(tiny_run, dataset, tmp_path_factory, cli) -> Path:
    """A calibrated bundle in every precision that no test may change."""

    def made(folder: Path) -> None:
        cli("export", tiny_run, "-o", folder / "tile.kdx", "--precision", ",".join(PRECISIONS))
        cli("calibrate", folder / "tile.kdx", dataset, "--false-reject-rate", 0.2)

    return made_once(tmp_path_factory, "embed", made) / "tile.kdx"
