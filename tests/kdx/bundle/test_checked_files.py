"""What was checked is what runs: bundles that are replaced or altered after they were opened."""

from __future__ import annotations

import functools
import os
import shutil
from importlib import util
from pathlib import Path

import numpy as np
import pytest

import kdx
from kdx.archive.score_records import ScoreWork
from kdx.archive.scorer import ShardScorer
from kdx.bundle.checked_files import Graph
from kdx.bundle.open import open_bundle
from kdx.decision.level_map import level_of
from kdx.decision.roi import RoiFrame, roi_of, set_roi
from kdx.errors import BackendError, BundleError
from kdx.loading import group as group_module
from kdx.loading.bundle_detector import detector_of
from kdx.runtime.backend_table import find_backend
from kdx.storage.cache import VARIABLE
from kdx.storage.files import new_folder, sha256_file
from tests.students import other_bundle, other_student

BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name.startswith("openvino") and util.find_spec("openvino") is None, reason="OpenVINO is not installed"
        ),
    )
    for name in ("onnxruntime-cpu", "openvino", "openvino-throughput")
]
openvino = pytest.mark.skipif(util.find_spec("openvino") is None, reason="OpenVINO is not installed")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def another(tiny_bundle, tmp_path_factory) -> Path:
    """A bundle of another student, as a later export would be."""
    folder = tmp_path_factory.mktemp("another")
    return other_bundle(tiny_bundle, folder / "another.kdx", functools.partial(other_student, seed=5))


def by_export(bundle: Path, another: Path) -> None:
    """Put another bundle in the place of one, as ``kdx export --force`` does."""
    with new_folder(bundle, force=True) as folder:
        shutil.copytree(another, folder, dirs_exist_ok=True)


def by_copy(bundle: Path, another: Path) -> None:
    shutil.rmtree(bundle)
    shutil.copytree(another, bundle)


def in_place(bundle: Path, another: Path) -> None:
    """Write every file over, as ``cp -r another.kdx/. tile.kdx`` does."""
    for file in another.rglob("*"):
        if file.is_file():
            (bundle / file.relative_to(another)).write_bytes(file.read_bytes())


def frames_of(frame: np.ndarray, count: int) -> np.ndarray:
    return np.stack([np.roll(frame, index, axis=0) for index in range(count)])


def scores_of(bundle: Path, frames: np.ndarray, backend: str) -> list[float]:
    with kdx.load(bundle, backend=backend, threads=1, precision="fp32") as detector:
        return [detector(frame).score for frame in frames]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("replace", [by_export, by_copy])
def test_a_new_batch_size_runs_the_graph_that_was_opened(
    bundle_copy, tiny_bundle, another, frame, cache, backend, replace
) -> None:
    frames = frames_of(frame, 3)
    expected = scores_of(tiny_bundle, frames, backend)
    assert not np.allclose(expected, scores_of(another, frames, backend), rtol=1e-2)
    with kdx.load(bundle_copy, backend=backend, threads=1) as detector:
        replace(bundle_copy, another)
        found = [verdict.score for verdict in detector.batch(frames)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    # And what was compiled meanwhile is of the graph that it is kept under.
    with kdx.load(tiny_bundle, backend=backend, threads=1) as later:
        np.testing.assert_allclose([v.score for v in later.batch(frames)], expected, rtol=1e-4)
    with kdx.load(bundle_copy, backend=backend, threads=1) as replaced:
        np.testing.assert_allclose(
            [v.score for v in replaced.batch(frames)], scores_of(another, frames, backend), rtol=1e-4
        )


@openvino
@pytest.mark.usefixtures("cache")
def test_a_graph_that_was_written_over_is_refused(bundle_copy, tiny_bundle, another, frame) -> None:
    frames = frames_of(frame, 3)
    with kdx.load(bundle_copy, backend="openvino", threads=1) as detector:
        expected = detector(frame).score
        in_place(bundle_copy, another)
        with pytest.raises(BackendError, match=r"was altered after the bundle was opened(.|\n)*load the bundle again"):
            detector.batch(frames)
        assert detector(frame).score == expected  # what was compiled is still the graph that was checked
        shutil.copyfile(tiny_bundle / "model.onnx", bundle_copy / "model.onnx")
        assert detector.batch(frames)[0].score == pytest.approx(expected, rel=1e-4)


@openvino
@pytest.mark.parametrize("replace", [by_export, in_place])
def test_a_shared_teacher_runs_the_graphs_that_were_opened(
    bundle_copy, tiny_bundle, another, tmp_path, frame, cache, replace
) -> None:
    third = other_bundle(tiny_bundle, tmp_path / "third.kdx", functools.partial(other_student, seed=6))
    frames = frames_of(frame, 3)
    expected = scores_of(tiny_bundle, frames, "openvino")
    with kdx.load_many({"a": bundle_copy, "b": third}, backend="openvino", threads=1, shared_teacher=True) as group:
        replace(bundle_copy, another)
        if replace is in_place:
            with pytest.raises(BackendError, match="was altered after the bundle was opened"):
                group["a"].batch(frames)
            return
        found = [verdict.score for verdict in group["a"].batch(frames)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@openvino
def test_tiles_run_the_graph_that_was_opened(tiled, another, large_frames, tmp_path, cache) -> None:
    bundle = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx"))
    frame = open_bundle(bundle).camera_images()[0]
    expected = scores_of(tiled / "tile.kdx", frame[None], "openvino")
    with kdx.load(bundle, backend="openvino", threads=1, precision="fp32") as detector:  # one tile was compiled
        by_export(bundle, another)
        assert detector(frame).score == pytest.approx(expected[0], rel=1e-4)


@openvino
def test_an_archive_is_scored_to_its_last_batch_by_one_graph(
    bundle_copy, tiny_bundle, another, cells, tmp_path, cache
) -> None:
    paths = sorted(file.name for file in cells.iterdir())[:5]
    work = ScoreWork(
        archive=str(cells),
        output=str(tmp_path / "out"),
        bundle=str(bundle_copy),
        bundle_sha256=sha256_file(bundle_copy / "bundle.json"),
        backend="openvino",
        precision="fp32",
        threads=1,
        batch=4,
        listed=[],
    )
    with kdx.load(tiny_bundle, backend="openvino", threads=1) as detector:
        expected = [detector(kdx.read_image(cells / path, detector.input)).score for path in paths]
    with ShardScorer(work) as scorer:
        rows = list(scorer._rows(paths[:4]))
        by_export(bundle_copy, another)
        rows += scorer._rows(paths[4:] * 3)
    assert not [row.error for row in rows if row.error]
    np.testing.assert_allclose([row.score for row in rows], [*expected, expected[4], expected[4]], rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graph_that_was_replaced_before_it_is_compiled_is_refused(
    bundle_copy, tiny_bundle, another, frame, cache, backend
) -> None:
    opened = open_bundle(bundle_copy)
    by_export(bundle_copy, another)
    with pytest.raises(kdx.KdxError, match=r"replaced|altered"):
        find_backend(backend).open(opened.graph, 1)
    with pytest.raises(kdx.KdxError, match=r"replaced|altered"):
        detector_of(opened, backend, 1)
    assert not list(cache.rglob("*.blob"))
    expected = scores_of(tiny_bundle, frame[None], "onnxruntime-cpu")
    np.testing.assert_allclose(scores_of(tiny_bundle, frame[None], backend), expected, rtol=1e-4)


def test_what_decides_beside_the_graph_is_what_was_opened(bundle_copy) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:56, 8:56] = 255
    opened = open_bundle(bundle_copy)
    with_roi = set_roi(opened, RoiFrame.of(opened.manifest).roi(mask))
    assert roi_of(with_roi) is not None
    set_roi(open_bundle(bundle_copy), RoiFrame.of(opened.manifest).roi(np.roll(mask, 4, axis=0)))
    with pytest.raises(BundleError, match=r"roi\.png' in .* was replaced or altered"):
        roi_of(with_roi)
    for file in ("anomaly_score.npy", opened.manifest.golden[0]):
        golden = bundle_copy / "golden" / file
        content = golden.read_bytes()
        golden.write_bytes(content[:-4] + b"\0\0\x80\x3f")
        with pytest.raises(BundleError, match=rf"{file}' in .* was replaced or altered"):
            opened.golden()
        golden.write_bytes(content)
    assert level_of(opened) is None


def test_a_graph_of_no_bundle_is_what_it_was_when_it_was_named(tiny_bundle, tmp_path) -> None:
    file = Path(shutil.copy(tiny_bundle / "model.onnx", tmp_path / "model.onnx"))
    graph = Graph.of(file)
    held = graph.hold()
    assert graph.read() == held.read() == file.read_bytes()
    held.close()
    held.close()
    file.unlink()
    for read in (graph.read, graph.hold().read):
        with pytest.raises(kdx.KdxError, match=r"model\.onnx' (is missing|cannot be read)(.|\n)*load the bundle again"):
            read()


@pytest.mark.skipif(os.name == "nt", reason="Windows opens the path again")
def test_a_file_that_is_closed_meanwhile_is_read_to_its_end(tiny_bundle, monkeypatch) -> None:
    file = tiny_bundle / "model.onnx"
    held = Graph.of(file).hold()
    real = os.fstat
    others: list[int] = []

    def closed_meanwhile(descriptor: int) -> os.stat_result:
        held.close()
        others.append(os.open(os.devnull, os.O_RDONLY))  # takes a number that was given back
        return real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", closed_meanwhile)
        content = held.read()
    assert content == file.read_bytes()
    assert len(others) == 1
    os.close(others[0])


def test_a_bundle_that_is_replaced_while_several_are_loaded_is_refused(
    bundle_copy, tiny_bundle, another, monkeypatch
) -> None:
    real = group_module.compile_and_check

    def replaced_meanwhile(*arguments) -> None:
        monkeypatch.undo()
        real(*arguments)
        by_export(bundle_copy, another)

    monkeypatch.setattr(group_module, "compile_and_check", replaced_meanwhile)
    with pytest.raises(BundleError, match="was replaced while it was loaded"):
        kdx.load_many({"a": bundle_copy, "b": tiny_bundle}, backend="onnxruntime-cpu", threads=1)
