"""The library under the address, undefined-behaviour and thread sanitizers; and its fuzzers, for a bounded while."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.embed.build import EMBED, build, missing, run, signatures_missing

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.slow]

FUZZERS = ("fuzz_manifest", "fuzz_golden", "fuzz_graph", "fuzz_abi", "fuzz_signature")
# Leaks are counted at the end; whatever the runtime's own start-up keeps is not kdx's.
ADDRESS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1:allocator_may_return_null=1",
    "LSAN_OPTIONS": f"suppressions={EMBED}/tests/leaks.supp:print_suppressions=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TBB_ENABLE_SANITIZERS": "1",  # or it loads a library in a way that sanitizers refuse
}
# OpenVINO and TBB are not instrumented: their locks are not seen, and what they do is not reported.
THREAD = {
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=66:ignore_noninstrumented_modules=1",
    "TBB_ENABLE_SANITIZERS": "1",
}
# Not optimised: compiling takes longer than running.
SANITIZED = ("-DKDX_BUILD_TESTS=ON", "-DCMAKE_BUILD_TYPE=Debug")


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("address")
    targets = ("kdx_units", "kdx_loading", "kdx_calls", "kdx_failed_calls", *FUZZERS)
    return build(folder, targets, "-DKDX_SANITIZE=address,undefined", *SANITIZED)


def test_addresses_leaks_and_undefined_behaviour(address, bundle, tiny_bundle):
    run(address / "tests/kdx_units", bundle, **ADDRESS)
    run(address / "tests/kdx_loading", tiny_bundle, **ADDRESS)
    run(address / "tests/kdx_calls", tiny_bundle, **ADDRESS)
    run(address / "tests/kdx_failed_calls", tiny_bundle, **ADDRESS)


@pytest.mark.parametrize(
    ("fuzzer", "runs", "seeds"),
    [
        ("fuzz_manifest", 20_000, ["bundle.json"]),
        ("fuzz_golden", 20_000, ["golden/*.png", "golden/anomaly_score.npy"]),
        ("fuzz_graph", 5_000, ["model.onnx"]),
        ("fuzz_abi", 3_000, []),
    ],
)
def test_no_input_crashes(address, tiny_bundle, fuzzer, runs, seeds):
    files = [file for pattern in seeds for file in sorted(tiny_bundle.glob(pattern))[:3]]
    done = run(address / "fuzz" / fuzzer, runs, *files, KDX_FUZZ_BUNDLE=str(tiny_bundle), **ADDRESS)
    assert int(done.stdout.split()[0]) == runs + len(files) + 2


def test_no_signature_crashes_or_passes(address, bundle_copy, tmp_path):
    pytest.importorskip("cryptography", reason="cryptography is not installed: pip install 'kdx[sign]'")
    if signatures_missing(address):
        pytest.skip(signatures_missing(address))
    from kdx.bundle.keys import make_keys, private_key
    from kdx.bundle.signing import sign_bundle

    secret, public, _ = make_keys(tmp_path / "line")
    sign_bundle(bundle_copy, private_key(secret, str))
    seeds = (bundle_copy / "bundle.sig", public)
    done = run(address / "fuzz/fuzz_signature", 5_000, *seeds, KDX_FUZZ_KEY=str(public), **ADDRESS)
    assert int(done.stdout.split()[0]) == 5_000 + len(seeds) + 2


def test_threads_do_not_race(tmp_path_factory, tiny_bundle):
    folder = tmp_path_factory.mktemp("thread")
    built = build(folder, ["kdx_calls", "kdx_loading"], "-DKDX_SANITIZE=thread", *SANITIZED)
    run(built / "tests/kdx_calls", tiny_bundle, **THREAD)
    run(built / "tests/kdx_loading", tiny_bundle, **THREAD)
