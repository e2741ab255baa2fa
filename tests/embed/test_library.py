"""The C library decides as Python does with the same bundle, and refuses the bundles that Python
refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kdx
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.decision.regions import find_regions
from kdx.errors import BundleError
from kdx.runtime.backend_table import find_backend
from kdx.verification.tolerances import TOLERANCES
from tests.embed.build import DECISIONS, EMBED, PRECISIONS, REASONS, CallError, Detector, Verdict, ctest, missing, run
from tests.embed.conftest import LIBRARY_TESTS
from tests.schema1 import FIXTURES, NAMES, SCORES_WITHIN, old_bundle, recorded
from tests.spoiled import spoil, spoiled_image, without_learned_limits

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

BUNDLE_ERROR = 3


# The same answers as Python


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_golden_image_is_judged_as_in_python(library, bundle, precision):
    golden = open_bundle(bundle).golden()
    with (
        kdx.load(bundle, backend="openvino", threads=1, precision=precision) as expected,
        Detector(library, bundle, precision) as detector,
    ):
        assert detector.takes.backend == b"openvino"
        assert detector.takes.precision == precision.encode()
        assert detector.takes.threshold == expected.threshold
        assert detector.takes.pixel_threshold == expected.pixel_threshold
        for image in golden.images:
            ours, anomaly_map = detector(image)
            theirs = expected(image)
            # The same runtime runs the same graph: only the caller differs.
            assert ours.score == pytest.approx(theirs.score, rel=1e-5)
            np.testing.assert_allclose(anomaly_map, theirs.anomaly_map, rtol=1e-5, atol=1e-5 * theirs.anomaly_map.max())
            assert DECISIONS[ours.decision] == theirs.decision.value
            assert ours.margin == pytest.approx(theirs.margin, rel=1e-4)
            assert ours.relative_score == pytest.approx(theirs.relative_score, rel=1e-4)
            assert ours.held_out_images == theirs.held_out_images == 6


def test_the_fastest_calibrated_precision_is_taken(library, bundle, tmp_path):
    with Detector(library, bundle) as detector:
        assert detector.takes.precision == b"int8"
    # Without its threshold INT8 could only say "undecided" where FP32 decides.
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    index = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    del index["runtime_thresholds"]["int8"]["openvino"]
    index["runtime_thresholds"].pop("bf16", None)
    (copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    with Detector(library, copy) as detector:
        assert (detector.takes.precision, detector.takes.said) == (b"fp32", b"")
    # What ONNX Runtime measured is not OpenVINO's.
    with Detector(library, copy, "int8") as detector:
        assert np.isnan(detector.takes.threshold)
        assert detector.takes.said.startswith(b"int8 has no threshold for openvino: every verdict is undecided")
        verdict, _ = detector(open_bundle(bundle).golden().images[0])
        assert DECISIONS[verdict.decision] == "undecided"
        report = detector.selftest()
        assert (report.passed, report.said[:50]) == (0, detector.takes.said[:50])


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_of_schema_1_decides_as_it_did(library, name, tmp_path):
    bundle = old_bundle(name, tmp_path)
    for said in recorded(name):
        if said.backend != "openvino" or not find_backend(said.backend).offers(said.precision):
            continue
        spec = open_bundle(bundle).manifest.camera
        with Detector(library, bundle, said.precision) as detector:
            takes = detector.takes
            assert takes.threshold == said.threshold
            is_known = said.precision != "int8"
            assert is_known == (takes.said == b"")
            assert is_known or b"did not record which runtime measured it" in takes.said
            for image, before in said.verdicts.items():
                verdict, _ = detector(kdx.read_image(FIXTURES / "images" / image, spec))
                assert verdict.score == pytest.approx(before.score, rel=SCORES_WITHIN[said.precision])
                if said.is_clear(image):
                    assert DECISIONS[verdict.decision] == before.decision


def test_messages_contain_no_control_characters(library, tmp_path):
    path = tmp_path / "\x1b[31m\x07\x9b\x7f工.kdx"
    with pytest.raises(CallError, match=r"\?\[31m\?\?\?工\.kdx"):
        Detector(library, path)


def test_regions_are_pythons(library, bundle):
    with kdx.load(bundle, backend="openvino", threads=1) as expected, Detector(library, bundle) as detector:
        size = (detector.takes.map_height, detector.takes.map_width)
        rng = np.random.default_rng(0)
        maps = [rng.random(size, np.float32), (rng.random(size) > 0.995).astype(np.float32), np.zeros(size, np.float32)]
        maps.append(detector(open_bundle(bundle).golden().images[-1])[1])
        for anomaly_map in maps:
            limit = float(np.quantile(anomaly_map, 0.9))
            verdict = kdx.Verdict(kdx.Decision.DEFECTIVE, 1.0, 0.5, anomaly_map, limit)
            theirs = expected.regions(verdict, min_area=3.0, pixel_size_um=25.0)
            count, ours = detector.regions(anomaly_map, limit, 3.0, 25.0, room=10_000)
            assert count == len(ours) == len(theirs)
            for one, other in zip(ours, theirs, strict=True):
                found = [getattr(one, name) for name, _ in one._fields_]
                assert found == pytest.approx([getattr(other, name) for name, _ in one._fields_], rel=1e-12)
        assert detector.regions(maps[0], 0.9, room=2)[0] > 2
        assert len(detector.regions(maps[0], 0.9, room=2)[1]) == 2
        for wrong in ({"min_area": -1.0}, {"pixel_size_um": float("nan")}, {"threshold": float("nan")}):
            with pytest.raises(CallError):
                detector.regions(maps[0], **{"threshold": 0.5, **wrong})


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({}, "not_finite"),
        ({"value": float("inf"), "where": (slice(0, 1), slice(0, 1))}, "not_finite"),
        ({"value": -1.0, "where": (slice(0, 1), slice(0, 1))}, "below_range"),
        ({"score": -3.4028235e38}, "below_range"),
        ({"score": float("nan")}, "not_finite"),
        ({"score": 0.0}, "score_mismatch"),
    ],
)
def test_an_answer_that_the_method_cannot_give_is_undecided(library, tiny_bundle, frame, tmp_path, spoiled, reason):
    path = spoil(Path(shutil.copytree(tiny_bundle, tmp_path / "tile.kdx")), **spoiled)
    manifest = open_bundle(path).manifest
    wrong = spoiled_image(manifest)
    # Also where the region of interest leaves out what is wrong.
    mask = np.full(wrong.shape[:2], 255, np.uint8)
    mask[:32, :32] = 0
    with kdx.load(path, backend="openvino", threads=1) as expected, Detector(library, path, "fp32") as detector:
        for roi in (None, mask):
            ours, theirs = detector(wrong, roi)[0], expected(wrong, roi=roi)
            assert REASONS[ours.reason] == theirs.reason.value == reason
            assert DECISIONS[ours.decision] == theirs.decision.value == "undecided"
            assert np.isnan(ours.score)
            assert np.isnan(theirs.score)
        assert REASONS[detector(frame, mask)[0].reason] == expected(frame, roi=mask).reason.value == "other_region"
        ours, theirs = detector(frame)[0], expected(frame)
        assert (REASONS[ours.reason], DECISIONS[ours.decision]) == (None, theirs.decision.value)
    write_manifest(path, msgspec.structs.replace(manifest, threshold=None))
    with Detector(library, path, "fp32") as detector:
        assert REASONS[detector(frame)[0].reason] == "no_threshold"
        assert REASONS[detector(wrong)[0].reason] == reason


def test_one_wrong_tile_makes_a_frame_undecided(library, tiled, tmp_path):
    path = spoil(Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx")), where=(slice(0, 1), slice(0, 1)))
    manifest = without_learned_limits(path)
    image = np.full((manifest.camera.height, manifest.camera.width, manifest.camera.channels), 120, np.uint8)
    image[::2] = 100
    with Detector(library, path, "fp32") as detector:
        assert detector(image)[0].reason == 0
        # The last tile: its first corner lies in the halo, which stitching leaves out.
        image[-manifest.input.height :, -manifest.input.width :] = 245
        verdict, anomaly_map = detector(image)
        assert (DECISIONS[verdict.decision], REASONS[verdict.reason]) == ("undecided", "not_finite")
        assert np.isfinite(anomaly_map).all()


def test_a_caller_of_the_first_version_gets_what_it_has_room_for(library, bundle):
    """The first version's verdict ended before the reason. The memory after it must not change."""
    image = open_bundle(bundle).golden().images[0]
    with Detector(library, bundle, "fp32") as detector:
        expected = detector(image)[0]
        first = Verdict(Verdict.reason.offset)
        first.reason = first.reserved = 77
        detector.call(image, first)
    assert (first.decision, first.score, first.margin) == (expected.decision, expected.score, expected.margin)
    assert (first.reason, first.reserved) == (77, 77)


def test_a_caller_of_the_version_before_p_values_gets_what_it_has_room_for(library, bundle):
    image = open_bundle(bundle).golden().images[0]
    with Detector(library, bundle, "fp32") as detector:
        expected = detector(image)[0]
        second = Verdict(Verdict.relative_score.offset)
        second.p_value = second.relative_score = second.held_out_images = 77
        detector.call(image, second)
    assert (second.decision, second.margin, second.reason) == (expected.decision, expected.margin, expected.reason)
    assert (second.p_value, second.relative_score, second.held_out_images) == (77, 77, 77)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_large_frames_are_judged_in_tiles_as_in_python(library, tiled, large_frames, precision):
    bundle = tiled / "tile.kdx"
    with (
        kdx.load(bundle, backend="openvino", threads=1, precision=precision) as expected,
        Detector(library, bundle, precision) as detector,
    ):
        assert (detector.takes.height, detector.takes.width) == (expected.input.height, expected.input.width)
        assert detector.takes.max_batch == 1
        for name in ("test/good/000.png", "test/scratch/000.png"):
            frame = kdx.read_image(large_frames / name, expected.input)
            ours, anomaly_map = detector(frame)
            theirs = expected(frame)
            np.testing.assert_allclose(anomaly_map, theirs.anomaly_map, atol=1e-5 * np.ptp(theirs.anomaly_map))
            assert ours.score == pytest.approx(theirs.score, rel=1e-5)
            assert DECISIONS[ours.decision] == theirs.decision.value
            threshold = float(np.median(theirs.anomaly_map))
            found = find_regions(theirs.anomaly_map, threshold, frame.shape[:2])
            assert detector.regions(anomaly_map, threshold)[0] == len(found)
        report = detector.selftest()
        assert report.passed, report.said


@pytest.mark.parametrize(
    "changed", [{"rows": [0, 16]}, {"rows": []}, {"halo": -1}, {"halo": 40}, {"frame": [96, 0]}, {"columns": [0, 200]}]
)
def test_tiles_with_gaps_are_refused(library, tiled, tmp_path, changed):
    bundle = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx"))
    index = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    index["tiling"] |= changed
    (bundle / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CallError) as caught:
        Detector(library, bundle, "fp32")
    assert caught.value.status == BUNDLE_ERROR
    with pytest.raises(BundleError):
        kdx.load(bundle)


def test_frames_that_are_read_in_bands_are_refused_by_name(library, tiled, tmp_path):
    bundle = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx"))
    index = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    index["tiling"]["bands"] = True
    (bundle / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CallError, match="are read in bands of rows") as caught:
        Detector(library, bundle, "fp32")
    assert caught.value.status == BUNDLE_ERROR


@pytest.mark.slow
def test_a_bgr_bundle_takes_rgb_frames_too(built, dataset, tiny_options, tmp_path, cli):
    cli("train", dataset, "-o", tmp_path / "run", "--channels", 3, "--epochs", 1, *tiny_options)
    cli("export", tmp_path / "run", "-o", tmp_path / "bgr.kdx", "--channel-order", "bgr")
    cli("calibrate", tmp_path / "bgr.kdx", dataset, "--false-reject-rate", 0.2)
    # Golden files are RGB, the graph takes BGR; the self-test fails when one is taken for the
    # other.
    run(built / "tests/kdx_calls", KDX_TEST_BUNDLE=str(tmp_path / "bgr.kdx"))


# Start of shift


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_selftest_measures_what_python_measures(library, bundle, precision):
    from kdx.verification.golden import GoldenCheck

    opened = open_bundle(bundle)
    with kdx.load(bundle, backend="openvino", threads=1, precision=precision) as expected:
        (compared,) = GoldenCheck(opened).compare(expected.backend, precision)
    with Detector(library, bundle, precision) as detector:
        report = detector.selftest()
    allowed = TOLERANCES[precision]
    assert (report.score_allowed, report.map_allowed) == (allowed.score, allowed.map)
    assert report.score_difference == pytest.approx(compared.score_max, rel=1e-2, abs=1e-6)
    assert report.map_difference == pytest.approx(compared.map_max, rel=1e-2, abs=1e-6)
    assert report.flips == compared.flips == 0
    assert (report.passed, report.said) == (1, b"")


def test_the_selftest_fails_for_a_bundle_that_was_never_calibrated(library, raw_bundle):
    with Detector(library, raw_bundle, "fp32") as detector:
        report = detector.selftest()
    assert (report.passed, report.images) == (0, 0)
    assert report.said == b"not calibrated: every verdict is undecided; run kdx calibrate BUNDLE DATA"


def test_the_selftest_finds_a_file_that_was_altered_while_the_line_ran(library, bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    with Detector(library, copy, "fp32") as detector:
        assert detector.selftest().passed
        (copy / "training_images.json").write_text("[]", encoding="utf-8")
        report = detector.selftest()
        assert report.passed == 0
        assert b"was altered" in report.said
        # Zeros would look as measured.
        measured = (report.score_difference, report.map_difference, report.latency_ms, report.median_ms)
        assert np.isnan(measured).all()
        assert (report.images, report.flips, report.calls) == (0, -1, 0)


# Refused bundles


def test_an_altered_bundle_is_refused(library, bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    with (copy / "model.int8.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CallError, match=r"model\.int8\.onnx' in .* was altered") as error:
        Detector(library, copy)
    assert error.value.status == BUNDLE_ERROR


def test_compiled_models_are_kept_and_damaged_ones_are_not_used(library, bundle, tmp_path):
    image = open_bundle(bundle).golden().images[0]
    scores = []
    for damage in (False, True, False):
        with Detector(library, bundle, "fp32", cache=tmp_path / "cache") as detector:
            scores.append(detector(image)[0].score)
        (blob,) = (tmp_path / "cache").iterdir()
        if damage:
            blob.write_bytes(blob.read_bytes()[:-100] + bytes(100))
    assert len(set(scores)) == 1


# Programs


@pytest.mark.slow
def test_the_c_and_cpp_tests_of_the_library_pass(built, bundle):
    results = ctest(built, "-R", f"^({'|'.join(LIBRARY_TESTS)})$", KDX_TEST_BUNDLE=str(bundle))
    assert results == dict.fromkeys(LIBRARY_TESTS, "Passed")


def test_nothing_but_the_interface_is_visible(library):
    header = (EMBED / "include/kdx/kdx.h").read_text(encoding="utf-8")
    symbols = {line.split()[-1] for line in run("nm", "-D", "--defined-only", library).stdout.splitlines()}
    assert symbols == {name for name in symbols if f" {name}(" in header or f"*{name}(" in header}
    assert "kdx_infer" in symbols


@pytest.mark.slow
def test_an_installed_package_is_found_by_cmake(built, bundle, tmp_path):
    run("cmake", "--install", built, "--prefix", tmp_path / "prefix")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(line LANGUAGES CXX)\nfind_package(kdx REQUIRED)\n"
        f'add_executable(line "{EMBED}/examples/minimal/minimal.cpp")\ntarget_link_libraries(line PRIVATE kdx::kdx)\n',
        encoding="utf-8",
    )
    run("cmake", "-S", tmp_path, "-B", tmp_path / "build", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={tmp_path}/prefix")
    run("cmake", "--build", tmp_path / "build")
    frame = tmp_path / "frame.raw"
    frame.write_bytes(open_bundle(bundle).golden().images[0].tobytes())
    assert run(tmp_path / "build/line", bundle, frame, code=None).returncode in {0, 1}
