"""The INT8 stage of a run: what its students learn from, what is written, and how it resumes."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from msgspec import UNSET

import kd_train.training.quantization
from kd_export.graph.int8 import Int8Plan, Step, step_of
from kd_export.onnx.onnx_export import export_onnx
from kd_export.precision.quantize import quantize_by
from kd_export.precision.runners import run_onnxruntime
from kd_train.training.kept_teacher import KeptTeacher
from kd_train.training.options import TrainOptions
from kd_train.training.quantization import quantize_run
from kd_train.training.run_config import preprocess_of
from kd_train.training.run_folder import Run
from kd_train.training.run_images import held_out_files
from kd_train.training.run_lock import RunLock
from kd_train.training.train import train
from kd_train.training.trained_pair import fuse, load_pair
from kd_train.training.trainer import Trainer
from kdx.bundle.open import open_bundle
from kdx.errors import BundleError, CheckpointError, DataError, GateError, OptionError, OutputError
from kdx.imaging.images import read_image
from kdx.storage.json_records import INT8_FOLDER
from tests.tiny_training import TINY

OPTIONS = TrainOptions(epochs=2, workers=0, device="cpu")


@pytest.fixture(scope="module")
def quantised(dataset, tmp_path_factory) -> Path:
    """A run of STPM whose INT8 stage nothing interrupted; no test may change it."""
    run = tmp_path_factory.mktemp("quantised") / "run"
    train(dataset, run, replace(TINY, epochs=2))
    quantize_run(run, OPTIONS)
    return run


@pytest.fixture
def source(quantised, tmp_path) -> Path:
    """The same run without a stage, which a test may change."""
    run = Path(shutil.copytree(quantised, tmp_path / "source"))
    shutil.rmtree(run / INT8_FOLDER)
    return run


@pytest.fixture
def run_with_stage(quantised, tmp_path) -> Path:
    """A copy of the run with its stage, which a test may change."""
    return Path(shutil.copytree(quantised, tmp_path / "run"))


def stage_of(run: Path) -> Run:
    return Run(run / INT8_FOLDER)


def images_of(dataset: Path, run: Path) -> np.ndarray:
    return np.stack([read_image(path, Run(run).config.input) for path in sorted((dataset / "test").rglob("*.png"))])


@contextmanager
def killed_after_an_epoch(monkeypatch) -> Iterator[None]:
    """Interrupt a training after its first epoch was written."""
    real = Trainer._save

    def save(self, *, best):
        real(self, best=best)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", save)
        yield


# What is written


def test_the_stage_says_what_its_teacher_was(quantised):
    run, config = Run(quantised), stage_of(quantised).config
    assert config.quantized is not UNSET
    assert config.quantized.checkpoint_sha256 == run.checkpoint("last").sha256
    assert config.quantized.teacher_sha256 == run.config.teacher_sha256
    assert (config.quantized.epoch, config.quantized.headroom) == (2, 1.0)
    assert (config.quantized.images, config.quantized.defects) == (6, 18)
    assert len(config.quantized.plan.nodes) > 20
    assert config.schema == 4
    assert config.teacher_sha256 != run.config.teacher_sha256, "its batch normalisation is folded"
    for name in ("train_images", "validation_images", "golden", "mean", "pair_spec", "data_sha256", "seed"):
        assert getattr(config, name) == getattr(run.config, name)
    golden = [path.read_bytes() for path in run.golden_files()]
    assert [path.read_bytes() for path in stage_of(quantised).golden_files()] == golden


def test_the_run_itself_stays_as_it_was(quantised):
    assert Run(quantised).config.schema == 3
    assert b"quantized" not in (quantised / "run.json").read_bytes()


def test_the_networks_start_from_the_trained_ones(source, dataset):
    """With the smallest learning rate, the students are the trained ones with rounded values."""
    quantize_run(source, replace(OPTIONS, epochs=1, learning_rate=1e-9))
    images = torch.from_numpy(images_of(dataset, source))
    maps = []
    for run in (Run(source), stage_of(source)):
        with torch.inference_mode():
            maps.append(fuse(run.config, load_pair(run)[0])(images)[0])
    changed = float((maps[0] - maps[1]).square().sum() / maps[0].square().sum())
    assert 0 < changed < 0.02


def test_what_is_trained_is_what_is_deployed(quantised, dataset):
    run = stage_of(quantised)
    pair, _ = load_pair(run)
    images = torch.from_numpy(images_of(dataset, quantised))
    detector = fuse(run.config, pair)
    with torch.inference_mode():
        maps, scores = detector(images)
        theirs = detector.tail(pair(preprocess_of(run.config)(images)))
    torch.testing.assert_close(theirs[0], maps, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(theirs[1], scores, rtol=1e-4, atol=1e-6)


def test_the_graph_of_the_stage_computes_the_same(quantised, dataset, tmp_path):
    run = stage_of(quantised)
    pair, _ = load_pair(run)
    export_onnx(pair.detector(run.config.input), tmp_path / "model.onnx", max_batch=1, metadata={})
    model = onnx.load(tmp_path / "model.onnx")
    images = images_of(dataset, quantised)
    with torch.inference_mode():
        ours = fuse(run.config, pair)(torch.from_numpy(images))[0].numpy()
    graph = quantize_by(model, pair.plan)
    changed = np.square(run_onnxruntime(model, images).maps - ours).sum()
    assert np.square(run_onnxruntime(graph, images).maps - ours).sum() < 0.3 * changed
    scales = {float(onnx.numpy_helper.to_array(tensor)) for tensor in graph.graph.initializer if not tensor.dims}
    assert {step.scale for steps in pair.plan.nodes.values() for step in steps} <= scales


# What students learn from


def test_students_learn_the_quantised_teachers_features(source, monkeypatch):
    seen: list[list[torch.Tensor]] = []
    real = Trainer._cache_teacher

    def cache(self, images, name):
        found = real(self, images, name)
        seen.append(found.features)
        return found

    monkeypatch.setattr(Trainer, "_cache_teacher", cache)
    quantize_run(source, replace(OPTIONS, epochs=1))
    run = stage_of(source)
    pair, _ = load_pair(run)
    exact, _ = load_pair(Run(source))
    records = sorted((Path(run.config.data) / "train/good").glob("*.png"))
    chosen = [path for path in records if path.name in run.config.train_images]
    images = torch.from_numpy(np.stack([read_image(path, run.config.input) for path in chosen]))
    with torch.inference_mode():
        x = preprocess_of(run.config)(images)
        for cached, ours, fp32 in zip(seen[0], pair.teacher_features(x), exact.teacher_features(x), strict=True):
            torch.testing.assert_close(cached, ours, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(cached, fp32, rtol=1e-3)


def test_the_loss_falls(source):
    history = quantize_run(source, replace(OPTIONS, epochs=4)).history
    assert history[-1].train_loss < history[0].train_loss
    assert all(np.isfinite(record.validation_loss) for record in history)


def test_the_headroom_multiplies_every_scale(source, quantised):
    quantize_run(source, replace(OPTIONS, epochs=1, headroom=2.0))
    wide, usual = (stage_of(path).config.quantized.plan.nodes for path in (source, quantised))
    pairs = [pair for name, steps in usual.items() for pair in zip(steps, wide[name], strict=True)]
    zeros = step_of(0.0, "any"), step_of(0.0, "non-negative")  # new residual branches compute zeros
    pairs = [(one, other) for one, other in pairs if one not in zeros]
    assert len(pairs) > 20
    for one, other in pairs:
        assert other.scale == pytest.approx(2 * one.scale, rel=1e-6)


# Resuming


def test_a_killed_quantisation_resumes_to_the_same_bytes(source, quantised, monkeypatch):
    with killed_after_an_epoch(monkeypatch), pytest.raises(KeyboardInterrupt):
        quantize_run(source, OPTIONS)
    ours, theirs = stage_of(source), stage_of(quantised)
    assert ours.checkpoint("last").epoch == 1
    (remark,) = ours.remarks()
    command = f"kdx quantize {source} --resume --epochs 2 --learning-rate 0.001 --headroom 1.0"
    assert command in remark.text
    with pytest.raises(CheckpointError, match="is not finished") as refused:
        Run(source).int8()
    assert command in refused.value.fix
    result = quantize_run(source, replace(OPTIONS, resume=True))
    assert (result.resumed_after, len(result.history)) == (1, 2)
    require_same(stage_of(source), theirs)


def test_the_advice_continues_a_stage_of_images_that_had_moved(source, dataset, tmp_path, monkeypatch):
    """It names the options of the stage to the last digit; the stage knows where its images are."""
    moved = Path(shutil.copytree(dataset, tmp_path / "moved"))
    record = json.loads((source / "run.json").read_text(encoding="utf-8"))
    (source / "run.json").write_text(json.dumps({**record, "data": "/nowhere"}), encoding="utf-8")
    with killed_after_an_epoch(monkeypatch), pytest.raises(KeyboardInterrupt):
        quantize_run(source, replace(OPTIONS, learning_rate=0.00123456789), moved)
    words = shlex.split(stage_of(source).how_to_continue.split("kdx quantize ")[1])
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[1] == "--resume"
    options = replace(
        OPTIONS,
        resume=True,
        epochs=int(given["--epochs"]),
        learning_rate=float(given["--learning-rate"]),
        headroom=float(given["--headroom"]),
    )
    assert quantize_run(source, options).resumed_after == 1


def test_a_stage_without_an_epoch_offers_no_teacher(run_with_stage):
    stage = stage_of(run_with_stage)
    for name in ("last", "best"):
        (stage.path / f"{name}.json").unlink()
    stage.config = msgspec.structs.replace(stage.config, distilled=object())  # as of a compact teacher
    with pytest.raises(CheckpointError, match="no epoch") as refused:
        stage.checkpoint("last")
    assert refused.value.fix.startswith("continue it: kdx quantize")


def require_same(ours: Run, theirs: Run) -> None:
    for which in ("last", "best"):
        assert ours.checkpoint(which).sha256 == theirs.checkpoint(which).sha256
    assert ours.checkpoint("last").optimiser_sha256 == theirs.checkpoint("last").optimiser_sha256
    assert ours.config.quantized == theirs.config.quantized
    assert ours.config.teacher_sha256 == theirs.config.teacher_sha256


@pytest.mark.parametrize(("name", "value"), [("epochs", 3), ("headroom", 2.0), ("learning_rate", 1e-4)])
def test_other_options_do_not_resume(quantised, name, value):
    with pytest.raises(CheckpointError, match=f"cannot be resumed: {name} changed") as refused:
        quantize_run(quantised, replace(OPTIONS, resume=True, **{name: value}))
    assert refused.value.received == f"{name} {value}"
    assert f"kdx quantize {quantised} --resume --epochs 2" in refused.value.fix


def test_a_stage_of_another_checkpoint_is_neither_resumed_nor_taken(run_with_stage, dataset):
    stage = run_with_stage / INT8_FOLDER
    stage.rename(run_with_stage.parent / "kept")
    train(dataset, run_with_stage, replace(TINY, epochs=2, seed=1, force=True))
    assert not stage.exists(), "nothing of a replaced run is left"
    (run_with_stage.parent / "kept").rename(stage)
    with pytest.raises(CheckpointError, match="cannot be resumed: checkpoint changed") as refused:
        quantize_run(run_with_stage, replace(OPTIONS, resume=True))
    assert refused.value.fix == f"replace it: kdx quantize {run_with_stage} --force"
    with pytest.raises(CheckpointError, match="came from another checkpoint") as refused:
        Run(run_with_stage).int8()
    assert refused.value.fix == f"quantise the run again: kdx quantize {run_with_stage} --force"


def test_a_run_that_is_replaced_takes_its_stage_with_it(run_with_stage, dataset):
    train(dataset, run_with_stage, replace(TINY, epochs=1, force=True))
    assert not (run_with_stage / INT8_FOLDER).exists()
    assert Run(run_with_stage).int8() is None


def test_a_stage_belongs_to_one_of_the_runs_checkpoints(run_with_stage, dataset):
    """Of two checkpoints that differ, the one that the recipe names is quantised."""
    run = Run(run_with_stage)
    assert run.int8("last").path == run_with_stage / INT8_FOLDER
    best = json.loads((run_with_stage / "best.json").read_text(encoding="utf-8"))
    (run_with_stage / "best.json").write_text(json.dumps({**best, "sha256": 64 * "0"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="came from another checkpoint") as refused:
        run.int8("best")
    assert refused.value.fix == "leave out `checkpoint`"


def test_a_run_in_place_of_the_stage_is_neither_taken_nor_resumed(source):
    shutil.copytree(source, source / INT8_FOLDER)
    with pytest.raises(CheckpointError, match="its networks are FP32"):
        quantize_run(source, replace(OPTIONS, resume=True))
    with pytest.raises(CheckpointError, match="are FP32"):
        Run(source).int8()


# Both stages in one training


def test_a_training_in_int8_has_both_stages(dataset, quantised, tmp_path, monkeypatch):
    """It gives the bytes of a training and a quantisation, also where each stage is killed."""
    monkeypatch.setattr(kd_train.training.quantization, "_EPOCHS", 2)
    run, options = tmp_path / "run", replace(TINY, epochs=2, precision="int8")
    for _ in range(3):  # twice in the first stage, once in the second
        with killed_after_an_epoch(monkeypatch), pytest.raises(KeyboardInterrupt):
            train(dataset, run, options)
        options = replace(options, resume=True)
    assert Run(run).checkpoint("last").epoch == 2
    assert stage_of(run).checkpoint("last").epoch == 1
    with pytest.raises(CheckpointError, match="its training in INT8 was interrupted") as refused:
        train(dataset, run, replace(options, precision="fp32"))
    assert f"kdx quantize {run} --resume" in refused.value.fix
    result = train(dataset, run, options)
    assert (result.resumed_after, result.int8.resumed_after) == (2, 1)
    assert Run(run).checkpoint("last").sha256 == Run(quantised).checkpoint("last").sha256
    require_same(stage_of(run), stage_of(quantised))
    assert Run(run).int8().path == result.int8.run.path


def test_a_finished_training_in_fp32_goes_on_with_int8(dataset, source, quantised, monkeypatch):
    monkeypatch.setattr(kd_train.training.quantization, "_EPOCHS", 2)
    before = (source / "run.json").read_bytes()
    train(dataset, source, replace(TINY, epochs=2, precision="int8", resume=True))
    require_same(stage_of(source), stage_of(quantised))
    assert (source / "run.json").read_bytes() == before
    train(dataset, source, replace(TINY, epochs=2, resume=True))  # nothing is left to do


def test_networks_that_cannot_be_quantised_are_refused_before_they_are_trained(dataset, tmp_path, unplannable):
    with pytest.raises(GateError, match=r"'pair\.student\.fc/Gemm' of the graph cannot be quantised"):
        train(dataset, tmp_path / "run", replace(TINY, precision="int8"))
    assert not (tmp_path / "run").exists()


# Bad input


def test_an_existing_stage_is_neither_replaced_nor_resumed_unasked(quantised):
    with pytest.raises(OutputError, match="int8' holds a run already") as refused:
        quantize_run(quantised, OPTIONS)
    assert refused.value.fix == "it is finished, and nothing is left to continue: pass `force=True` to replace it"


def test_a_gpu_computes_convolutions_of_int8_students_in_fp32(source, monkeypatch):
    seen = []

    def trained(*_, **__):
        seen.append(torch.backends.cudnn.allow_tf32)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr("kd_train.training.quantization.train_students", trained)
    with pytest.raises(KeyboardInterrupt):
        quantize_run(source, OPTIONS)
    assert (seen, torch.backends.cudnn.allow_tf32) == ([False], True)


def test_int8_networks_are_not_quantised_again(quantised):
    with pytest.raises(CheckpointError, match="are INT8 already") as refused:
        quantize_run(quantised / INT8_FOLDER, OPTIONS)
    assert refused.value.fix == f"name the run folder around it, '{quantised}'"


@pytest.mark.parametrize("how", [{"resume": True}, {"force": True}])
def test_no_training_continues_or_replaces_a_stage(quantised, dataset, how):
    before = (quantised / INT8_FOLDER / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match="are INT8: they are the second stage") as refused:
        train(dataset, quantised / INT8_FOLDER, replace(TINY, **how))
    assert f"kdx quantize {quantised}" in refused.value.fix
    assert (quantised / INT8_FOLDER / "run.json").read_bytes() == before


def test_the_teacher_of_a_stage_is_no_teacher_of_a_training(quantised, tmp_path):
    stage = Path(shutil.copytree(quantised / INT8_FOLDER, tmp_path / "run/int8"))
    record = json.loads((stage / "run.json").read_text(encoding="utf-8"))
    record["recipe"]["teacher_from"] = ["a network"]
    (stage / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(OptionError, match="is INT8") as refused:
        KeptTeacher(stage)
    assert str(stage.parent) in refused.value.fix


def test_an_unfinished_run_is_refused(dataset, tmp_path, monkeypatch):
    with killed_after_an_epoch(monkeypatch), pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "source", replace(TINY, epochs=2))
    with pytest.raises(CheckpointError, match="is not finished"):
        quantize_run(tmp_path / "source", OPTIONS)
    assert not (tmp_path / "source" / INT8_FOLDER).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
def test_a_run_that_is_in_training_is_not_quantised(source):
    with RunLock() as other:
        other.take(source)
        with pytest.raises(OutputError, match="another process trains in"):
            quantize_run(source, OPTIONS)
    assert not (source / INT8_FOLDER).exists()


def test_missing_images_are_named(source, dataset, tmp_path):
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    missing = sorted((data / "train/good").glob("*.png"))[0]
    missing.unlink()
    with pytest.raises(DataError, match="does not contain all good images of the training") as refused:
        quantize_run(source, OPTIONS, data)
    assert (refused.value.expected, refused.value.received) == ("12 images", f"11 of them, without {missing.name}")


def test_images_that_have_moved_are_found(source, quantised, dataset, tmp_path):
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    quantize_run(source, OPTIONS, data)
    assert stage_of(source).checkpoint("last").sha256 == stage_of(quantised).checkpoint("last").sha256


@pytest.mark.parametrize(
    ("name", "value"), [("headroom", 0.9), ("headroom", 5.0), ("epochs", 0), ("learning_rate", 0.0)]
)
def test_values_out_of_range(source, name, value):
    with pytest.raises(OptionError, match=f"`{name}` is out of range"):
        quantize_run(source, replace(OPTIONS, **{name: value}))


@pytest.fixture
def unplannable(monkeypatch) -> None:
    """Let every plan name an operation that PyTorch's modules do not call."""
    real = kd_train.training.quantization.plan_int8

    def plan_int8(*given, **options):
        plan = real(*given, **options)
        return Int8Plan({**plan.nodes, "pair.student.fc/Gemm": (Step(scale=1.0, zero=0, type="int8"),)})

    monkeypatch.setattr(kd_train.training.quantization, "plan_int8", plan_int8)


def test_an_operation_that_cannot_be_quantised_is_named_before_a_stage_is_replaced(run_with_stage, unplannable):
    before = (run_with_stage / INT8_FOLDER / "run.json").read_bytes()
    with pytest.raises(GateError, match=r"'pair\.student\.fc/Gemm' of the graph cannot be quantised"):
        quantize_run(run_with_stage, replace(OPTIONS, force=True))
    assert (run_with_stage / INT8_FOLDER / "run.json").read_bytes() == before


def test_a_damaged_stage_is_quantised_again_and_not_trained_again(run_with_stage) -> None:
    stage = run_with_stage / INT8_FOLDER
    (stage / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not valid") as refused:
        Run(stage)
    assert refused.value.fix == f"quantise the run again: kdx quantize {run_with_stage} --force"


def test_training_data_that_have_moved_are_asked_for(source) -> None:
    record = json.loads((source / "run.json").read_text(encoding="utf-8"))
    (source / "run.json").write_text(json.dumps({**record, "data": "/nowhere"}), encoding="utf-8")
    with pytest.raises(DataError, match="no longer at '/nowhere'") as refused:
        quantize_run(source, OPTIONS)
    assert "`data`" in refused.value.fix
    with pytest.raises(DataError, match="no longer at '/nowhere'") as refused:
        held_out_files(Run(source))
    assert "`calibration_data`" in refused.value.fix


def test_a_run_that_was_begun_for_int8_says_that_its_stage_is_missing(dataset, tmp_path, monkeypatch) -> None:
    options = replace(TINY, epochs=2)
    with killed_after_an_epoch(monkeypatch), pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", replace(options, precision="int8"))
    result = train(dataset, tmp_path / "run", replace(options, resume=True))
    assert [each.kind for each in result.remarks if each.kind == "missing_int8_stage"] == ["missing_int8_stage"]
    assert "kdx quantize" in str(result.remarks[-1])
    plain = train(dataset, tmp_path / "plain", options)
    assert not [each for each in plain.remarks if each.kind == "missing_int8_stage"]


def test_the_stage_is_no_bundle_and_its_run_is_exported(run_with_stage) -> None:
    with pytest.raises(BundleError, match="not a bundle but a run folder") as refused:
        open_bundle(run_with_stage / INT8_FOLDER)
    assert refused.value.fix == f"make a bundle of it: kdx export {run_with_stage} -o NAME.kdx"
