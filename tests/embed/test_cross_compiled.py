"""The C library for 64-bit ARM: cross-compiled, with its unit tests in QEMU."""

from __future__ import annotations

import shutil

import pytest

from tests.embed.build import EMBED, build, ctest, missing

PROGRAMS = ("aarch64-linux-gnu-g++", "qemu-aarch64")
ABSENT = missing() or ", ".join(f"{each} is not installed" for each in PROGRAMS if shutil.which(each) is None)
pytestmark = [pytest.mark.skipif(bool(ABSENT), reason=ABSENT), pytest.mark.slow]

# What needs neither a runtime nor a key: OpenVINO for ARM is a download of its own, and takes
# minutes in QEMU.
TESTS = ("units", "caches", "engines", "bundle_files", "tensorrt")


def test_the_library_is_built_for_arm_and_passes_its_unit_tests(tmp_path) -> None:
    options = (f"-DCMAKE_TOOLCHAIN_FILE={EMBED / 'cmake/aarch64-linux-gnu.cmake'}", "-DKDX_WITH_OPENVINO=OFF")
    folder = build(tmp_path, ("kdx", "kdx_internals", "kdx_caches"), "-DKDX_BUILD_TESTS=ON", *options)
    header = (folder / "libkdx.so").read_bytes()[:20]
    assert (header[:5], header[18:20]) == (b"\x7fELF\x02", b"\xb7\x00"), "64 bits, EM_AARCH64"
    assert ctest(folder, "-R", f"^({'|'.join(TESTS)})$") == dict.fromkeys(TESTS, "Passed")
