"""What the message of an interrupted training says is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from kd_train.training.distilled_teacher import TEACHER_FOLDER
from kd_train.training.kept_epochs import describe_kept
from kdx.storage.json_records import INT8_FOLDER


def plan(run: Path, epochs: int) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record["recipe"]["epochs"] = epochs
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")


def without_epochs(run: Path) -> None:
    for name in ("last.json", "best.json"):
        (run / name).unlink()


def test_epochs_of_the_students(run_copy):
    plan(run_copy, 9)
    assert describe_kept(run_copy) == "2 of 9 epochs of the students are kept"
    without_epochs(run_copy)
    assert describe_kept(run_copy) == "no epoch of the students was complete"


def test_epochs_of_the_int8_stage_count_once_the_students_have_theirs(run_copy, tiny_run):
    stage = Path(shutil.copytree(tiny_run, run_copy / INT8_FOLDER))
    plan(stage, 8)
    assert describe_kept(run_copy) == "2 of 8 epochs of the INT8 students are kept"
    plan(run_copy, 9)  # the run is extended, and the stage is that of the shorter run
    assert describe_kept(run_copy) == "2 of 9 epochs of the students are kept"


def test_epochs_of_the_compact_teacher_count_before_the_students_have_one(run_copy, tiny_run):
    teacher = Path(shutil.copytree(tiny_run, run_copy / TEACHER_FOLDER))
    without_epochs(run_copy)
    plan(teacher, 30)
    assert describe_kept(run_copy) == "2 of 30 epochs of the compact teacher are kept"
    without_epochs(teacher)
    assert describe_kept(run_copy) == "no epoch of the compact teacher was complete"


def test_a_record_that_cannot_be_read_hides_no_interruption(run_copy):
    (run_copy / "last.json").write_text("{", encoding="utf-8")
    assert describe_kept(run_copy) == ""
