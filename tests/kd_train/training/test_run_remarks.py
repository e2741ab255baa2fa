"""What is said of a run before its figures are believed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from kd_export.graph.int8 import Int8Plan
from kd_train.training.free_folder import require_free
from kd_train.training.run_config import Quantized
from kd_train.training.run_folder import Run
from kd_train.training.run_images import MissingImagesWarning, held_out_files, training_files
from kd_train.training.run_remarks import remarks_on, remarks_on_window
from kdx.errors import OutputError
from kdx.storage.json_records import INT8_FOLDER
from tests.platforms import needs_links


def stage_in(run: Path, checkpoint_sha256: str | None = None) -> Run:
    """Return an INT8 stage of a run, of its checkpoint or of another one."""
    source = Run(run)
    sha256 = checkpoint_sha256 or source.checkpoint(source.config.recipe.checkpoint).sha256
    origin = Quantized(
        checkpoint_sha256=sha256, teacher_sha256=source.config.teacher_sha256, epoch=1, headroom=1.5, images=1,
        defects=1, plan=Int8Plan({}),
    )  # fmt: skip
    shutil.rmtree(run / INT8_FOLDER, ignore_errors=True)
    stage = Run(Path(shutil.copytree(run, run / INT8_FOLDER)))
    stage.config = msgspec.structs.replace(stage.config, quantized=origin)
    return stage


def test_a_stage_of_another_checkpoint_is_named(run_copy, tmp_path):
    (said,) = remarks_on(stage_in(run_copy, "another"))
    assert said.kind == "stage_of_another_checkpoint"
    assert f"kdx quantize {run_copy} --force" in said.text
    assert said.first == (str(run_copy / INT8_FOLDER),)
    stage = stage_in(run_copy)
    assert remarks_on(stage) == []
    shutil.copytree(stage.path, tmp_path / "moved" / INT8_FOLDER)
    stage.path = tmp_path / "moved" / INT8_FOLDER  # there is no run around it
    assert remarks_on(stage) == []


def test_an_unfinished_run_without_border_weights_says_so(run_copy):
    record = json.loads((run_copy / "run.json").read_text(encoding="utf-8"))
    record["recipe"] |= {"epochs": 9, "border_weights": True}
    (run_copy / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (said,) = remarks_on(Run(run_copy))
    assert said.text.startswith("of 9 epochs trained: the training was not finished; its maps have no border weights")


@pytest.mark.parametrize("damage", ["", "{"])
def test_without_its_last_record_a_run_is_judged_by_the_best_one(run_copy, damage):
    record = json.loads((run_copy / "run.json").read_text(encoding="utf-8"))
    record["recipe"]["epochs"] = 9
    (run_copy / "run.json").write_text(json.dumps(record), encoding="utf-8")
    best = Run(run_copy).checkpoint("best").epoch
    (run_copy / "last.json").unlink()
    if damage:
        (run_copy / "last.json").write_text(damage, encoding="utf-8")
    (said,) = remarks_on(Run(run_copy))
    assert (said.kind, said.count) == ("unfinished_training", best)
    assert Run(run_copy).provenance(Run(run_copy).checkpoint("best")).planned_epochs == 9


def test_a_window_of_another_scale_is_named(run_copy):
    run = Run(run_copy)

    def said(*sides: int) -> list[str]:
        return [str(each) for each in remarks_on_window(run, run.input_for((480, 640), crop=(100, 200, *sides)))]

    assert said(64, 64) == said(69, 60) == remarks_on_window(run, run.input_for((480, 640))) == []
    for sides, size in (((64, 128), "128x64"), ((32, 32), "32x32")):
        (text,) = said(*sides)
        assert text.startswith("1 window has other sides than the training images, 64x64: unless both show the same")
        assert text.endswith(f"`crop` of {size}")
    run.config = msgspec.structs.replace(run.config, input=msgspec.structs.replace(run.config.input, fixed_size=False))
    assert said(32, 32) == []  # of images of all sizes


@pytest.mark.parametrize("which", ["best", "last", None])
def test_border_weights_of_another_checkpoint_are_named(run_copy, which):
    best = json.loads((run_copy / "best.json").read_text(encoding="utf-8"))
    (run_copy / "best.json").write_text(json.dumps({**best, "epoch": 1, "sha256": "0" * 64}), encoding="utf-8")
    run = Run(run_copy)
    assert run.config.recipe.checkpoint == "last"
    assert remarks_on(run, which) == []
    run.config = msgspec.structs.replace(run.config, border_weights=((0.5, 1.0),))
    found = [str(each) for each in remarks_on(run, which)]
    said = "1 set of border weights was measured with the checkpoint last (epoch 2), and is used with: best (epoch 1)"
    assert found == ([said] if which == "best" else [])


def test_a_finished_run_has_nothing_to_continue(run_copy):
    def advice(**options: str) -> str:
        with pytest.raises(OutputError, match="holds a run already") as refused:
            require_free(run_copy, resume=False, force=False, **options)
        return refused.value.fix

    assert "nothing is left to continue" in advice()
    assert "`resume=True`" in advice(precision="int8"), "its INT8 stage is left"
    shutil.copytree(run_copy, run_copy / INT8_FOLDER)
    assert "nothing is left to continue" in advice(precision="int8")
    (run_copy / INT8_FOLDER / "last.json").unlink()
    assert "`resume=True`" in advice()
    (run_copy / "run.json").write_text("{", encoding="utf-8")
    assert "`resume=True`" in advice(), "a damaged run is named where it is opened"


@needs_links
def test_files_that_cannot_be_read_are_no_images_of_a_run(tiny_run, dataset_copy):
    run = Run(tiny_run)
    found = training_files(run, dataset_copy), held_out_files(run, dataset_copy)
    good = dataset_copy / "train/good"
    (good / "gone.png").symlink_to("nowhere.png")
    assert (training_files(run, dataset_copy), held_out_files(run, dataset_copy)) == found
    first = found[1][0]
    first.unlink()
    first.symlink_to("nowhere.png")
    said = rf"does not contain 1 image .*: {first.name}; 2 good images cannot be read: .*gone\.png"
    with pytest.warns(MissingImagesWarning, match=said):
        assert held_out_files(run, dataset_copy) == found[1][1:]
