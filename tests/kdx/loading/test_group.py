"""Several bundles in one process: verdicts as alone, teachers shared where they are the same, and
reasons where not."""

from __future__ import annotations

import functools
import gc
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

import kdx
from kdx.bundle.manifest import GOLDEN_SCORES
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_files, write_manifest
from kdx.calibration.validity import CalibrationWarning
from kdx.errors import BackendError
from kdx.loading import group as group_module
from kdx.loading import origin as origin_module
from kdx.runtime.backend_table import find_backend
from kdx.runtime.detector import Detector
from kdx.storage.npy import encode_array
from kdx.verification.certificate import verify
from kdx.verification.tolerances import FP32
from tests.students import add_int8, other_bundle, other_student, other_teacher

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'kdx[openvino]'")
OPTIONS = {"backend": "openvino", "threads": 1}


@pytest.fixture(scope="module")
def bundles(tiny_bundle, tmp_path_factory) -> dict[str, Path]:
    """Three products: one teacher, three students."""
    folder = tmp_path_factory.mktemp("products")
    return {"tile": tiny_bundle} | {
        name: other_bundle(tiny_bundle, folder / f"{name}.kdx", functools.partial(other_student, seed=seed))
        for seed, name in enumerate(("nut", "bolt"))
    }


@pytest.fixture(scope="module")
def stranger(tiny_bundle, tmp_path_factory) -> Path:
    """A bundle of another teacher."""
    return other_bundle(tiny_bundle, tmp_path_factory.mktemp("stranger") / "stranger.kdx", other_teacher)


@pytest.fixture(scope="module")
def other_camera(tiny_run, tmp_path_factory, cli) -> Path:
    """A bundle of the same run for another camera."""
    bundle = tmp_path_factory.mktemp("camera") / "camera.kdx"
    cli("export", tiny_run, "-o", bundle, "--input-size", "80x72", "--max-batch", 1)
    return bundle


def require_same(ours, theirs) -> None:
    assert ours.decision is theirs.decision
    assert (ours.threshold, ours.pixel_threshold) == (theirs.threshold, theirs.pixel_threshold)
    assert ours.score == pytest.approx(theirs.score, rel=FP32.score)
    np.testing.assert_allclose(ours.anomaly_map, theirs.anomaly_map, atol=FP32.map * np.ptp(theirs.anomaly_map))


@pytest.mark.slow
@pytest.mark.parametrize("shared_teacher", [True, None, False])
def test_verdicts_are_those_of_separate_detectors(bundles, frame, shared_teacher) -> None:
    with kdx.load_many(bundles, **OPTIONS, shared_teacher=shared_teacher) as group:
        assert list(group) == list(bundles)
        assert group.teachers == ((tuple(bundles),) if shared_teacher is not False else ())
        together = group(frame)
        assert list(together) == list(bundles)
        for name, path in bundles.items():
            with kdx.load(path, **OPTIONS) as detector:
                alone = detector(frame)
            require_same(together[name], alone)
            require_same(group[name](frame), alone)
            require_same(group[name].batch([frame, frame])[1], alone)
    assert len({verdict.score for verdict in together.values()}) == 3
    assert list(group) == list(bundles)  # names stay; what they name is closed
    with pytest.raises(kdx.KdxError, match="closed"):
        group(frame)
    with pytest.raises(kdx.KdxError, match="closed"):
        group["nut"](frame)


def test_a_bundle_is_named_by_its_folder_however_it_is_given(tiny_bundle, monkeypatch) -> None:
    monkeypatch.chdir(tiny_bundle)
    with kdx.load_many(["."], **OPTIONS) as group:
        assert list(group) == ["tiny"]
    assert verify(open_bundle("."), [find_backend("openvino")], threads=1, precisions=["fp32"]).bundle == "tiny.kdx"


def test_some_of_several(bundles, frame) -> None:
    with kdx.load_many(list(bundles.values()), **OPTIONS, shared_teacher=True) as group:
        assert list(group) == ["tiny", "nut", "bolt"]  # named after their folders
        assert len(group) == 3
        assert "nut" in group
        assert list(group(frame, ["bolt", "tiny"])) == ["bolt", "tiny"]
        assert group(frame, []) == {}
        for call in (lambda: group["cup"], lambda: group(frame, ["tiny", "cup"])):
            with pytest.raises(kdx.KdxError, match=r"no bundle is named 'cup'(.|\n)*tiny, nut, bolt"):
                call()
        with pytest.raises(kdx.KdxError, match="wrong size"):
            group(frame[1:])
        group["tiny"].close()
        assert np.isfinite(group["nut"](frame).score)


def test_threads_get_their_own_answers(bundles, frame) -> None:
    frames = [frame, frame[::-1], frame[:, ::-1]]
    with kdx.load_many(bundles, **OPTIONS, shared_teacher=True) as group:
        expected = [group(each) for each in frames]

        def judge(index: int) -> None:
            for step in range(10):
                which = (index + step) % 3
                for name, verdict in group(frames[which]).items():
                    assert verdict.score == expected[which][name].score
                assert group["nut"](frames[which]).score == expected[which]["nut"].score

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(judge, range(4)))


def test_what_cannot_be_shared_is_loaded_by_itself_unless_sharing_is_asked_for(bundles, stranger, frame) -> None:
    some = {"tile": bundles["tile"], "stranger": stranger, "nut": bundles["nut"]}
    with kdx.load_many(some, **OPTIONS) as group:
        assert group.teachers == (("tile", "nut"),)
        assert list(group(frame)) == list(some)
        with kdx.load(stranger, **OPTIONS) as detector:
            require_same(group(frame)["stranger"], detector(frame))
    with pytest.raises(kdx.KdxError) as refused:
        kdx.load_many(some, **OPTIONS, shared_teacher=True)
    assert "'tile' and 'stranger' have different teachers" in str(refused.value)
    assert "its weights or its inputs, from 'pair.teacher.networks.0" in refused.value.received


@pytest.mark.slow
def test_another_input_is_named(bundles, other_camera) -> None:
    with pytest.raises(kdx.KdxError) as refused:
        kdx.load_many({"tile": bundles["tile"], "camera": other_camera}, **OPTIONS, shared_teacher=True)
    inputs = [open_bundle(bundle).manifest.input.describe() for bundle in (bundles["tile"], other_camera)]
    assert f"input {inputs[0]} and {inputs[1]}" in refused.value.received


def test_onnx_runtime_shares_nothing_and_says_so(bundles, frame) -> None:
    with kdx.load_many(bundles, backend="onnxruntime-cpu", threads=1) as group:
        assert group.teachers == ()
        with kdx.load(bundles["nut"], backend="onnxruntime-cpu", threads=1) as detector:
            require_same(group(frame)["nut"], detector(frame))
    with pytest.raises(kdx.KdxError, match=r"'onnxruntime-cpu' cannot share a teacher(.|\n)*auto or openvino"):
        kdx.load_many(bundles, backend="onnxruntime-cpu", shared_teacher=True)
    with pytest.raises(kdx.KdxError, match="no backend 'nonsense'"):
        kdx.load_many(bundles, backend="nonsense", shared_teacher=True)


def test_without_openvino_sharing_is_refused(bundles, monkeypatch) -> None:
    monkeypatch.setattr("kdx.runtime.backend_table.BackendInfo.is_installed", lambda info: info.name != "openvino")
    with pytest.raises(kdx.KdxError, match=r"not installed(.|\n)*pip install"):
        kdx.load_many(bundles, shared_teacher=True)


def test_auto_judges_the_golden_images_first(bundles, tmp_path) -> None:
    copy = Path(shutil.copytree(bundles["nut"], tmp_path / "copy.kdx"))
    with kdx.load_many([bundles["tile"], copy], threads=1, shared_teacher=True) as group:
        assert {group[name].backend.name for name in group} == {"openvino"}
    opened = open_bundle(copy)
    write_files(copy, {GOLDEN_SCORES: encode_array(opened.golden().scores * 1.01)})
    write_manifest(copy, opened.manifest)
    with pytest.raises(kdx.KdxError, match=r"does not decide here what was trained(.|\n)*scores off by 0.0"):
        kdx.load_many([bundles["tile"], copy], threads=1, shared_teacher=True)


@pytest.mark.slow
def test_int8_teachers_are_shared_where_their_scales_are_the_same(bundles, tmp_path, frame) -> None:
    images = np.stack([frame, frame[::-1]])
    some = {name: Path(shutil.copytree(bundles[name], tmp_path / f"{name}.kdx")) for name in ("tile", "nut")}
    other = Path(shutil.copytree(bundles["bolt"], tmp_path / "bolt.kdx"))
    for bundle in some.values():
        add_int8(bundle, images)
    add_int8(other, images // 2)
    with kdx.load_many(some, **OPTIONS, shared_teacher=True) as group:
        assert group["nut"].threshold == open_bundle(some["nut"]).manifest.threshold_of("int8", "openvino").score
        assert group.teachers == (("tile", "nut"),)
    apart = {**some, "bolt": other}
    with pytest.raises(kdx.KdxError) as refused:
        kdx.load_many(apart, **OPTIONS, precision="int8", shared_teacher=True)
    assert "scales come from each bundle's own images; in FP32 it is one teacher" in refused.value.received
    assert "precision fp32" in refused.value.fix
    with kdx.load_many(apart, **OPTIONS, shared_teacher=True) as group:  # the next precision that all hold
        assert group["nut"].threshold == open_bundle(some["nut"]).manifest.threshold.score
    with kdx.load_many(apart, **OPTIONS) as group:  # each in the precision that the backend is for
        assert group.teachers == (("tile", "nut"),)


def test_what_is_no_set_of_bundles(bundles, tiny_run, tmp_path) -> None:
    with pytest.raises(kdx.KdxError, match="no bundles to load"):
        kdx.load_many([])
    for one in (bundles["tile"], str(bundles["tile"])):
        with pytest.raises(kdx.KdxError, match="`bundles` is one path"):
            kdx.load_many(one)
    with pytest.raises(kdx.KdxError, match="two bundles are named 'tiny'"):
        kdx.load_many([bundles["tile"], bundles["tile"]])
    with pytest.raises(kdx.KdxError, match="is a run, not a bundle"):
        kdx.load_many({"tile": bundles["tile"], "run": tiny_run})
    with pytest.raises(kdx.KdxError, match="there is no bundle"):
        kdx.load_many([bundles["tile"], tmp_path / "none.kdx"])


# The command line


@pytest.mark.slow
def test_predict_names_the_bundle_of_each_verdict(cli, bundles, dataset) -> None:
    paths = list(bundles.values())
    images = sorted((dataset / "test/good").iterdir())[:2]
    options = ("--also", paths[1], "--also", paths[2], "--backend", "openvino", "--threads", 1)
    together = cli("predict", paths[0], *images, *options, "--shared-teacher", "--json").lines
    assert [(line["bundle"], line["image"]) for line in together] == [
        (name, str(image)) for image in images for name in ("tiny", "nut", "bolt")
    ]
    assert cli("predict", paths[0], *images, *options, "--json").lines == together
    for index, path in enumerate(paths):
        alone = cli("predict", path, *images, "--backend", "openvino", "--threads", 1, "--json").lines
        for ours, theirs in zip(together[index::3], alone, strict=True):
            assert "bundle" not in theirs
            assert ours["verdict"] == theirs["verdict"]
            assert ours["score"] == pytest.approx(theirs["score"], rel=FP32.score)
    table = cli("predict", paths[0], *images, *options).stdout
    assert "bundle" in table
    assert "bolt" in table


@pytest.mark.slow
def test_predict_reads_an_image_for_each_input(cli, bundles, other_camera, dataset, tmp_path) -> None:
    spec, image = open_bundle(other_camera).manifest.input, tmp_path / "frames/frame.png"
    image.parent.mkdir()
    Image.open(dataset / "test/good/012.png").resize((spec.width, spec.height)).save(image)
    tile = Path(shutil.copytree(bundles["tile"], tmp_path / "tile.kdx"))
    manifest = open_bundle(tile).manifest  # one that takes files of any size
    write_manifest(tile, replace(manifest, input=replace(manifest.input, fixed_size=False)))
    options = ("--also", other_camera, "--backend", "openvino", "--overlay", tmp_path / "maps")
    result = cli("predict", tile, image, *options, "--json")
    assert [line["verdict"] for line in result.lines][1] == "undecided"
    assert f"not calibrated: no verdicts, only scores. Calibrate with kdx calibrate {other_camera}" in result.stderr
    maps = [tmp_path / "maps" / name / image.name for name in ("tile", "camera")]
    assert [line["overlay"] for line in result.lines] == [str(path) for path in maps]
    assert all(path.is_file() for path in maps)
    message = cli("predict", tile, image, *options, "--force", "--shared-teacher", code=2).stderr
    assert "have different teachers" in message


def test_predict_needs_several_bundles_to_share(cli, bundles, dataset, tmp_path) -> None:
    message = cli("predict", bundles["tile"], dataset / "test/good", "--shared-teacher", code=2).stderr
    assert "--also" in message
    images = sorted((dataset / "test/good").iterdir())[:1]
    same_name = shutil.copytree(bundles["tile"], tmp_path / "copy" / bundles["tile"].name)
    options = ("--also", same_name, "--backend", "openvino")
    lines = cli("predict", bundles["tile"], *images, *options, "--json").lines
    assert len({line["bundle"] for line in lines}) == 2, "bundles of one name"


def test_bundles_of_frames_in_tiles_share_no_teacher(tiled, large_frames):
    paths = {"one": tiled / "tile.kdx", "two": tiled / "tile.kdx"}
    with (
        kdx.load_many(paths, precision="fp32", **OPTIONS) as group,
        kdx.load(paths["one"], **OPTIONS, precision="fp32") as alone,
    ):
        assert group.teachers == ()
        frame = kdx.read_image(large_frames / "test/scratch/000.png", alone.input)
        for verdict in group(frame).values():
            require_same(verdict, alone(frame))
    with pytest.raises(BackendError, match="one bundle at a time"):
        kdx.load_many(paths, shared_teacher=True, **OPTIONS)


def test_a_group_that_is_dropped_and_not_closed_is_freed_at_once(bundles) -> None:
    gc.disable()
    try:
        group = kdx.load_many(bundles, **OPTIONS, shared_teacher=True)
        (teacher,) = group._shared
        alive = [weakref.ref(teacher), weakref.ref(teacher._compiled.get(1))]
        del group, teacher
        assert [found() for found in alive] == [None, None]
    finally:
        gc.enable()


def test_a_warning_that_is_an_error_leaves_nothing_open(tiny_bundle, monkeypatch) -> None:
    def warn(*_: object) -> None:
        raise CalibrationWarning("an error, as with -W error")

    closed: list[Detector] = []
    monkeypatch.setattr(Detector, "close", lambda self: closed.append(self))
    for module in (origin_module, group_module):
        monkeypatch.setattr(module, "warn_of_calibration", warn)
    for load in (lambda: kdx.load(tiny_bundle, **OPTIONS), lambda: kdx.load_many([tiny_bundle], **OPTIONS)):
        with pytest.raises(CalibrationWarning):
            load()
        assert len(closed) == 1
        closed.clear()
