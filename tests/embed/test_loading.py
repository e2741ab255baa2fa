"""The C library runs the bytes that ``kdx_open`` checked, and refuses a bundle that differs from
its reference."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kdx
from kdx.bundle.manifest import GOLDEN_MAPS, GOLDEN_SCORES, INT8_MAPS, INT8_SCORES
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.errors import BackendError, BundleError
from kdx.imaging.images import encode_png
from kdx.storage.npy import decode_array, encode_array
from kdx.verification.golden import GoldenCheck
from kdx.verification.tolerances import INT8_STUDENTS, tolerances_of
from tests.embed.build import DECISIONS, PRECISIONS, CallError, Detector, missing, run
from tests.schema1 import old_bundle

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

BUNDLE_ERROR, BACKEND_ERROR = 3, 4


@pytest.fixture(scope="module")
def other(dataset, tmp_path_factory, cli, tiny_options) -> Path:
    """A bundle of the same shapes with other scores."""
    folder = tmp_path_factory.mktemp("other")
    cli("train", dataset, "--out", folder / "run", "--epochs", 1, "--seed", 7, *tiny_options)
    cli("export", folder / "run", "-o", folder / "tile.kdx", "--precision", ",".join(PRECISIONS))
    return folder / "tile.kdx"


# The checked bytes are the bytes that run


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bundle_that_is_replaced_does_not_change_an_open_detector(library, bundle, other, tmp_path, precision):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    images = list(open_bundle(copy).golden().images[:3])
    cache = tmp_path / "cache"
    with Detector(library, copy, precision, cache=cache) as detector:
        before = [detector(image)[0].score for image in images]
        shutil.rmtree(copy)
        shutil.copytree(other, copy)  # kdx export --force
        # A size that was not compiled before.
        assert [verdict.score for verdict in detector.batch(images)] == pytest.approx(before, rel=1e-4)
    with Detector(library, copy, precision, cache=cache) as detector:  # compiled models of both are in the cache now
        after = [detector(image)[0].score for image in images]
        assert after != pytest.approx(before, rel=1e-2)
        assert [verdict.score for verdict in detector.batch(images)] == pytest.approx(after, rel=1e-4)
    with Detector(library, bundle, precision, cache=cache) as detector:
        assert [verdict.score for verdict in detector.batch(images)] == pytest.approx(before, rel=1e-4)


def test_tiles_of_a_bundle_that_is_replaced_are_still_judged(library, tiled, large_frames, tmp_path):
    copy = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx"))
    with Detector(library, copy, "fp32") as detector, kdx.load(copy, "openvino", 1, precision="fp32") as expected:
        frame = kdx.read_image(large_frames / "test/good/000.png", expected.input)
        score = expected(frame).score
        shutil.rmtree(copy)
        assert detector(frame)[0].score == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("change", ["scores", "maps", "one map"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_another_reference_is_refused(library, bundle, tmp_path, precision, change):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    opened = open_bundle(copy)
    golden = opened.golden()
    if change == "scores":
        (copy / GOLDEN_SCORES).write_bytes(encode_array(golden.scores * np.float32(3)))
    else:
        changed = golden.maps * np.float32(3)
        if change == "one map":
            changed[:-1] = golden.maps[:-1]
        (copy / GOLDEN_MAPS).write_bytes(encode_array(changed))
    write_manifest(copy, opened.manifest)
    with pytest.raises(CallError, match="does not decide here what was trained") as caught:
        Detector(library, copy, precision)
    assert caught.value.status == BACKEND_ERROR
    differ = r"scores off by 0\.6[67]" if change == "scores" else r"maps off by (0\.[67]|\d)"
    assert re.search(differ, str(caught.value))
    assert "kdx verify" in str(caught.value)


def test_another_reference_of_tiles_is_refused(library, tiled, tmp_path):
    copy = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx"))
    opened = open_bundle(copy)
    (copy / GOLDEN_SCORES).write_bytes(encode_array(opened.golden().scores * np.float32(1.01)))
    write_manifest(copy, opened.manifest)
    with pytest.raises(CallError, match="does not decide here what was trained"):
        Detector(library, copy, "fp32")


@pytest.mark.parametrize("changes", [{"score": 99.0}, {"score": -1.0}, {"false_reject_rate": 0.5}, {"edited": -1.0}])
def test_an_edited_threshold_is_refused_as_in_python(library, bundle, tmp_path, changes):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    index = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    if "edited" in changes:  # every place where the score stands, as sed does
        scores = index["threshold"]["scores"]
        scores[scores.index(index["threshold"]["score"])] = changes["edited"]
        changes = {"score": changes["edited"]}
    index["threshold"] |= changes
    (copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(BundleError, match="does not fit its held-out scores"):
        open_bundle(copy)
    with pytest.raises(CallError, match=r"bundle\.json of .* contradicts itself: a threshold does not fit"):
        Detector(library, copy, "fp32")


def test_a_verdict_that_flips_is_refused(library, bundle, tmp_path):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    index = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    index["runtime_thresholds"]["int8"]["openvino"] |= {"score": 1e-9, "scores": []}  # defective, whatever FP32 says
    (copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CallError, match=r"[1-9]\d* verdicts flipped"):
        Detector(library, copy, "int8")
    with Detector(library, copy, "fp32") as detector:
        assert detector.selftest().passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_not_finite_is_refused(library, bundle, tmp_path, value):
    copy = Path(shutil.copytree(bundle, tmp_path / "tile.kdx"))
    opened = open_bundle(copy)
    maps = opened.golden().maps.copy()
    maps[0, 1, 1] = value
    (copy / GOLDEN_MAPS).write_bytes(encode_array(maps))
    write_manifest(copy, opened.manifest)
    with pytest.raises(CallError, match="not finite") as caught:
        Detector(library, copy, "fp32")
    assert caught.value.status == BUNDLE_ERROR


_OPEN = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.kdx_last_error.restype = ctypes.c_char_p
status = library.kdx_open(sys.argv[2].encode(), None, ctypes.byref(ctypes.c_void_p()))
print(status, library.kdx_last_error().decode())
"""


def test_an_openvino_without_its_cpu_plugin_is_not_called_a_bug_of_kdx(library, tmp_path):
    copy = old_bundle("stpm", tmp_path)
    index = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    # Only a CPU that has it computes BF16.
    index["variants"]["bf16"] = {"file": "model.onnx", "convolutions": 1, "kept": []}
    index["thresholds"] |= {"bf16": index["threshold"]}
    (copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    broken = tmp_path / "openvino"
    broken.mkdir()
    for file in (Path(find_spec("openvino").origin).parent / "libs").iterdir():
        if "intel_cpu" not in file.name:
            (broken / file.name).symlink_to(file)
    done = run(sys.executable, "-c", _OPEN, library, copy, LD_LIBRARY_PATH=str(broken))
    status, text = done.stdout.split(maxsplit=1)
    assert int(status) == BACKEND_ERROR, text
    assert "OpenVINO cannot tell what this CPU computes" in text


@pytest.mark.parametrize("size", ["map of the same area", "map", "image"])
def test_an_index_with_other_sizes_than_the_graphs_is_refused(library, tmp_path, size):
    copy = old_bundle("stpm", tmp_path)
    opened = open_bundle(copy)
    manifest, golden = opened.manifest, opened.golden()
    height, width = manifest.map_size
    if size == "image":  # the upper half of each golden image
        for name, image in zip(golden.names, golden.images, strict=True):
            (copy / "golden" / name).write_bytes(encode_png(image[: manifest.input.height // 2]))
        smaller = msgspec.structs.replace(manifest.input, height=manifest.input.height // 2)
        manifest = msgspec.structs.replace(manifest, input=smaller)
    else:
        other = (2 * height, width // 2 if size == "map of the same area" else width)
        maps = np.resize(golden.maps, (len(golden.maps), *other))
        (copy / GOLDEN_MAPS).write_bytes(encode_array(maps))
        manifest = msgspec.structs.replace(manifest, map_size=other)
    write_manifest(copy, manifest)
    with pytest.raises(BackendError, match="does not fit"):
        kdx.load(copy, "openvino", 1, precision="fp32")
    with pytest.raises(CallError, match=r"does not fit its bundle\.json: .* has another size") as caught:
        Detector(library, copy, "fp32")
    assert caught.value.status == BUNDLE_ERROR


@pytest.mark.parametrize("name", [GOLDEN_MAPS, GOLDEN_SCORES])
def test_a_reference_of_another_shape_is_refused_as_in_python(library, tmp_path, name):
    copy = old_bundle("stpm", tmp_path)
    opened = open_bundle(copy)
    values = decode_array((copy / name).read_bytes(), copy / name)
    (copy / name).write_bytes(encode_array(values[..., None]))
    write_manifest(copy, opened.manifest)
    with pytest.raises(BundleError, match="do not match their reference"):
        kdx.load(copy, "openvino", 1, precision="fp32")
    with pytest.raises(CallError, match="is not an array of the shape") as caught:
        Detector(library, copy, "fp32")
    assert caught.value.status == BUNDLE_ERROR


# INT8 students


def test_int8_students_score_as_in_python(library, students_bundle):
    opened = open_bundle(students_bundle)
    golden = opened.golden("int8")
    with kdx.load(students_bundle, "openvino", 1, precision="int8") as expected:
        scores = [verdict.score for verdict in expected.batch(golden.images)]
        decisions = [expected(image).decision.value for image in golden.images]
        (compared,) = GoldenCheck(opened).compare(expected.backend, "int8")
    with Detector(library, students_bundle, "int8") as detector:
        found = [detector(image)[0] for image in golden.images]
        report = detector.selftest()
    assert [verdict.score for verdict in found] == pytest.approx(scores, rel=1e-4)
    assert [DECISIONS[verdict.decision] for verdict in found] == decisions
    assert (report.passed, report.flips) == (1, 0)
    assert (report.score_allowed, report.map_allowed) == (INT8_STUDENTS.score, INT8_STUDENTS.map)
    assert report.score_difference == pytest.approx(compared.score_max, rel=1e-2, abs=1e-6)
    assert report.map_difference == pytest.approx(compared.map_max, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("additions", [0, 4])
def test_graphs_without_residual_additions_have_narrower_tolerances(library, students_bundle, tmp_path, additions):
    copy = Path(shutil.copytree(students_bundle, tmp_path / "tile.kdx"))
    opened = open_bundle(copy)
    # The reference is what OpenVINO answers, so that it is within any tolerance.
    with kdx.load(copy, "openvino", 1, precision="int8") as detector:
        outputs = [detector.backend.run(image[None]) for image in opened.golden("int8").images]
    (copy / INT8_MAPS).write_bytes(encode_array(np.concatenate([each.maps for each in outputs])))
    (copy / INT8_SCORES).write_bytes(encode_array(np.concatenate([each.scores for each in outputs])))
    origin = msgspec.structs.replace(opened.manifest.provenance.int8, residual_additions=additions)
    provenance = msgspec.structs.replace(opened.manifest.provenance, int8=origin)
    write_manifest(copy, msgspec.structs.replace(opened.manifest, provenance=provenance))
    expected = tolerances_of(open_bundle(copy).manifest, "int8")
    with Detector(library, copy, "int8") as detector:
        report = detector.selftest()
    assert (report.score_allowed, report.map_allowed) == (expected.score, expected.map)


@pytest.mark.parametrize("name", [INT8_SCORES, INT8_MAPS])
def test_int8_students_are_compared_with_their_own_reference(library, students_bundle, tmp_path, name):
    copy = Path(shutil.copytree(students_bundle, tmp_path / "tile.kdx"))
    manifest, content = open_bundle(copy).manifest, (copy / name).read_bytes()
    (copy / name).write_bytes(encode_array(decode_array(content, copy / name) * np.float32(3)))
    with pytest.raises(CallError, match=f"'{name}' in .* was altered"):
        Detector(library, copy, "int8")
    write_manifest(copy, manifest)
    with pytest.raises(CallError, match=r"does not decide here what was trained(.|\n)*int8, batch 1"):
        Detector(library, copy, "int8")
    with Detector(library, copy, "fp32") as detector:
        assert detector.selftest().passed
    index = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    (copy / name).unlink()
    with pytest.raises(CallError, match=f"'{name}' is missing"):
        Detector(library, copy, "fp32")
    del index["files"][name]
    (copy / "bundle.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CallError, match=f"does not list '{name}'"):
        Detector(library, copy, "fp32")


def test_the_reference_of_fp32_does_not_concern_int8_students(library, students_bundle, tmp_path):
    copy = Path(shutil.copytree(students_bundle, tmp_path / "tile.kdx"))
    manifest = open_bundle(copy).manifest
    (copy / GOLDEN_SCORES).write_bytes(encode_array(open_bundle(copy).golden().scores * np.float32(3)))
    write_manifest(copy, manifest)
    with Detector(library, copy, "int8") as detector:
        assert detector.selftest().passed
    with pytest.raises(CallError, match="fp32, batch 1"):
        Detector(library, copy, "fp32")


# Batch sizes


def test_sizes_that_are_asked_for_are_compiled_when_a_bundle_is_opened(library, bundle, tmp_path):
    images = list(open_bundle(bundle).golden().images[:3])

    def compiled() -> int:
        return len(list((tmp_path / "cache").iterdir()))

    with Detector(library, bundle, "fp32", cache=tmp_path / "cache", batch_sizes=[3, 1, 3]) as detector:
        assert compiled() == 2
        scores = [verdict.score for verdict in detector.batch(images)]
        assert scores == pytest.approx([detector(image)[0].score for image in images], rel=1e-4)
        assert compiled() == 2
        most = detector.takes.max_batch
    # Longer batches are split: what they are split into is compiled.
    with Detector(library, bundle, "fp32", cache=tmp_path / "cache", batch_sizes=[most + 2]) as detector:
        assert compiled() == 4
        detector.batch(images[:2])
        assert compiled() == 4


@pytest.mark.parametrize("batch_sizes", [(), (1,)])
def test_a_frames_tiles_are_compiled_when_a_bundle_is_opened(library, tiled, large_frames, tmp_path, batch_sizes):
    with kdx.load(tiled / "tile.kdx", "onnxruntime-cpu", 1) as python:
        frame = kdx.read_image(large_frames / "test/good/000.png", python.input)
    cache = tmp_path / "cache"
    with Detector(library, tiled / "tile.kdx", "fp32", cache=cache, batch_sizes=batch_sizes) as detector:
        before = {file.name for file in cache.iterdir()}
        detector(frame)
        assert {file.name for file in cache.iterdir()} == before
