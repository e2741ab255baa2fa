"""Every load compares the golden images: a bundle whose hashes are right and whose answers are not
is refused."""

from __future__ import annotations

import functools
import json
import shutil
from importlib import util
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kdx
from kdx.archive.score_records import ScoreWork
from kdx.archive.scorer import ShardScorer
from kdx.bundle.bundle import Bundle
from kdx.bundle.manifest import GOLDEN_MAPS, GOLDEN_SCORES
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_files, write_manifest
from kdx.errors import BackendError
from kdx.runtime import backend_table
from kdx.runtime.backend import Outputs
from kdx.storage.cache import VARIABLE
from kdx.storage.files import sha256_file
from kdx.storage.npy import decode_array, encode_array
from kdx.verification.golden import GoldenCheck
from tests.students import add_int8, other_bundle, other_student

openvino = pytest.mark.skipif(util.find_spec("openvino") is None, reason="OpenVINO is not installed")
# Scores that are a third of the reference, off by 0.67; in INT8 by a little less or more.
REFUSED = r"does not decide here what was trained(.|\n)*scores off by 0\.[67]\d(.|\n)*kdx verify"


def triple(bundle: Path, array: str = GOLDEN_SCORES) -> Path:
    """Triple what the reference is said to have answered, and put the hashes right."""
    opened = open_bundle(bundle)
    answers = decode_array((bundle / array).read_bytes(), bundle / array)
    write_files(bundle, {array: encode_array(answers * np.float32(3))})
    write_manifest(bundle, opened.manifest)
    return bundle


@pytest.fixture
def tripled(bundle_copy) -> Path:
    return triple(bundle_copy)


@pytest.fixture
def only_onnxruntime(monkeypatch) -> None:
    """A machine with ``pip install "kdx[cpu]"``: one backend and one precision are possible."""
    only = {name: info for name, info in backend_table.BACKENDS.items() if name == "onnxruntime-cpu"}
    monkeypatch.setattr(backend_table, "BACKENDS", only)


@pytest.mark.usefixtures("only_onnxruntime")
@pytest.mark.parametrize("options", [{}, {"backend": "onnxruntime-cpu"}, {"precision": "fp32"}])
def test_the_only_pair_is_compared_too(tripled, tiny_bundle, frame, options) -> None:
    with pytest.raises(BackendError, match=REFUSED):
        kdx.load(tripled, **options)
    with kdx.load(tiny_bundle, **options) as detector:
        assert np.isfinite(detector(frame).score)


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "onnxruntime-cpu"},
        pytest.param({"backend": "openvino"}, marks=openvino),
        pytest.param({"backend": "openvino-throughput", "precision": "fp32"}, marks=openvino),
    ],
)
def test_a_named_backend_is_compared_too(tripled, options) -> None:
    with pytest.raises(BackendError, match=REFUSED):
        kdx.load(tripled, threads=1, **options)


def test_a_difference_is_reported_before_another_batch_size_runs(tripled) -> None:
    bundle = open_bundle(tripled)
    with backend_table.find_backend("onnxruntime-cpu").open(bundle.graph, 1, "fp32") as backend:

        def sizes():
            yield 1
            raise AssertionError("another batch size was run")

        with pytest.raises(BackendError, match=REFUSED):
            GoldenCheck(bundle).require(backend, "fp32", sizes())


def test_maps_count_like_scores(bundle_copy) -> None:
    with pytest.raises(BackendError, match=r"scores off by .*e-0\d, maps off by"):
        kdx.load(triple(bundle_copy, GOLDEN_MAPS), backend="onnxruntime-cpu")


def test_a_verdict_that_flips_is_refused(bundle_copy) -> None:
    """A score within the tolerance may be on the other side of the threshold."""
    opened = open_bundle(bundle_copy)
    scores = opened.golden().scores
    moved = scores * np.float32(1 + 5e-5)
    write_files(bundle_copy, {GOLDEN_SCORES: encode_array(moved)})
    between = float(scores.max()) * (1 + 2.5e-5)
    threshold = msgspec.structs.replace(opened.manifest.threshold, score=between, review=None, scores=[])
    write_manifest(bundle_copy, msgspec.structs.replace(opened.manifest, threshold=threshold))
    with pytest.raises(BackendError, match="1 verdicts flipped"):
        kdx.load(bundle_copy, backend="onnxruntime-cpu")


@openvino
def test_a_remembered_choice_is_compared_again(bundle_copy, tmp_path, monkeypatch) -> None:
    """What runs may have changed since the choice was measured, with the software's version the
    same."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    with kdx.load(bundle_copy, threads=1) as detector:
        chosen = detector.backend.name
    real = backend_table.BackendInfo.open

    def wrong(self, graph, threads, precision="fp32"):
        opened = real(self, graph, threads, precision)
        run = opened.run
        opened.run = lambda images: Outputs(*(part * np.float32(3) for part in run(images)))
        return opened

    monkeypatch.setattr(backend_table.BackendInfo, "open", wrong)
    with pytest.raises(BackendError, match=rf"no backend on this machine(.|\n)*{chosen} fp32: scores off by 2,"):
        kdx.load(bundle_copy, threads=1)


@pytest.mark.slow
@openvino
@pytest.mark.parametrize("shared_teacher", [True, None, False])
@pytest.mark.parametrize("backend", ["openvino", "auto"])
def test_students_of_a_shared_teacher_are_compared(tripled, tiny_bundle, tmp_path, shared_teacher, backend) -> None:
    other = other_bundle(tiny_bundle, tmp_path / "other.kdx", functools.partial(other_student, seed=3))
    with pytest.raises(BackendError, match=r"what was trained(.|\n)*scores off by 0\.6\d"):
        kdx.load_many([other, tripled], backend=backend, threads=1, shared_teacher=shared_teacher)
    kdx.load_many([other, tiny_bundle], backend=backend, threads=1, shared_teacher=shared_teacher).close()


def test_the_graph_under_the_tiles_is_compared(tiled, tmp_path) -> None:
    bundle = Path(shutil.copytree(tiled / "tile.kdx", tmp_path / "tile.kdx"))
    for precision in ("fp32", "int8"):
        kdx.load(bundle, backend="onnxruntime-cpu", precision=precision).close()
    triple(bundle)
    for precision in ("fp32", "int8"):
        with pytest.raises(BackendError, match=REFUSED):
            kdx.load(bundle, backend="onnxruntime-cpu", precision=precision)


def test_an_archive_is_not_scored_by_it(tripled, cells, tmp_path) -> None:
    digest = sha256_file(tripled / "bundle.json")
    work = ScoreWork(
        archive=str(cells),
        output=str(tmp_path),
        bundle=str(tripled),
        bundle_sha256=digest,
        backend="onnxruntime-cpu",
        precision="fp32",
        threads=1,
        batch=4,
        listed=[],
    )
    with pytest.raises(BackendError, match=REFUSED):
        ShardScorer(work)


def test_commands_say_so(tripled, cells, cli) -> None:
    named = ("--backend", "onnxruntime-cpu")
    for command in (("predict", tripled, cells), ("evaluate", tripled, cells), ("calibrate", tripled, cells)):
        refused = cli(*command, *named, code=2)
        assert "does not decide here what was trained" in refused.stderr, command
    assert cli("verify", tripled, *named, "--json", code=1).json["comparisons"][0]["score_max"] == pytest.approx(2 / 3)
    assert cli("selftest", tripled, *named, "--json", code=1).json["checks"][1]["passed"] is False
    assert cli("inspect", tripled, "--json").json["manifest"]["golden"]  # looks, and runs nothing


def test_a_threshold_that_flips_a_verdict_can_be_calibrated_away(bundle_copy, dataset, cli) -> None:
    """Calibration replaces the thresholds, so they are no reason to refuse it."""
    images = open_bundle(bundle_copy).golden().images
    add_int8(bundle_copy, images)
    opened = open_bundle(bundle_copy)
    far = msgspec.structs.replace(opened.manifest.runtime_thresholds["int8"]["onnxruntime"], score=1e-6, scores=[])
    own = {"int8": {"onnxruntime": far}}
    write_manifest(bundle_copy, msgspec.structs.replace(opened.manifest, runtime_thresholds=own))
    with pytest.raises(BackendError, match=r"[1-9] verdicts flipped"):
        kdx.load(bundle_copy, backend="onnxruntime-cpu", precision="int8")
    done = cli("calibrate", bundle_copy, dataset, "--false-reject-rate", 0.2, "--backend", "onnxruntime-cpu", code=None)
    assert "does not decide here" not in done.stderr
    assert open_bundle(bundle_copy).manifest.threshold != opened.manifest.threshold


def test_a_bundle_is_calibrated_as_if_it_had_no_thresholds(bundle_copy) -> None:
    opened = open_bundle(bundle_copy)
    bare = opened.uncalibrated()
    assert isinstance(bare, Bundle)
    assert (bare.manifest.threshold, bare.manifest.runtime_thresholds) == (None, {})
    assert (
        json.loads((bundle_copy / "bundle.json").read_text(encoding="utf-8"))["threshold"]["score"]
        == opened.manifest.threshold.score
    )


def test_verdicts_that_are_not_compared_are_named(tiny_bundle, cli, monkeypatch) -> None:
    said = "no verdicts were compared where flips are –"
    assert said not in cli("verify", tiny_bundle, "--backend", "onnxruntime-cpu").stdout
    # As of tiles, where the threshold is of frames that are divided by a level map.
    monkeypatch.setattr("kdx.verification.golden.thresholds_of", lambda *_: None)
    assert said in " ".join(cli("verify", tiny_bundle, "--backend", "onnxruntime-cpu").stdout.split())
    golden = cli("selftest", tiny_bundle, "--backend", "onnxruntime-cpu", "--json").json["checks"][1]
    assert golden["said"].endswith("no verdicts compared")
