"""The C and C++ tests and the fuzzers under the address, undefined-behaviour and thread
sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.embed.build import build, ctest, missing, signatures_missing
from tests.engines import add_engine, make_record

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.slow]

# Compiling with optimisation takes longer than it saves at run time. A sanitizer's report names
# lines, for which the least information for debuggers is enough.
DEBUG = ("-DKDX_BUILD_TESTS=ON", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-g1")
# Sanitizers make each input of a fuzzer take many times as long.
FUZZ = "-DKDX_FUZZ_RUNS=3000"
NEED_A_KEY = {"signed_engines", "fuzz_signature"}


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("address")
    return build(folder, ["kdx_tests"], "-DKDX_SANITIZE=address,undefined", FUZZ, *DEBUG)


@pytest.mark.slow
def test_addresses_leaks_and_undefined_behaviour(address, tiny_bundle):
    results = ctest(address, timeout=3600, KDX_TEST_BUNDLE=str(tiny_bundle))
    assert {name for name, result in results.items() if result == "Skipped"} == NEED_A_KEY
    assert {"units", "calls", "tensorrt", "fuzz_manifest"} < {
        name for name, result in results.items() if result == "Passed"
    }


@pytest.mark.slow
def test_no_signature_crashes_and_nothing_unsigned_is_accepted(address, bundle_copy, tmp_path):
    pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'kdx[sign]'")
    if signatures_missing(address):
        pytest.skip(signatures_missing(address))
    from kdx.bundle.keys import make_keys, private_key
    from kdx.bundle.signing import sign_bundle

    secret, public, _ = make_keys(tmp_path / "line")
    add_engine(bundle_copy, "fp16", make_record())
    sign_bundle(bundle_copy, private_key(secret, str))
    environment = {"KDX_TEST_BUNDLE": str(bundle_copy), "KDX_TEST_KEY": str(public)}
    assert ctest(address, "-R", f"^({'|'.join(NEED_A_KEY)})$", **environment) == dict.fromkeys(NEED_A_KEY, "Passed")


@pytest.mark.slow
def test_threads_do_not_race_in_a_library_without_openssl(tmp_path):
    """Threads share nothing of OpenSSL. Without it, the test ``calls`` checks that the library
    refuses to open a bundle whose signature is required."""
    options = ("-DKDX_SANITIZE=thread", "-DKDX_WITH_OPENSSL=OFF", *DEBUG)
    folder = build(tmp_path, ["kdx_thread_tests"], *options)
    assert signatures_missing(folder)
    assert ctest(folder, "-L", "threads") == dict.fromkeys(("caches", "reference", "calls"), "Passed")
