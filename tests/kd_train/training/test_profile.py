"""``kdx train --profile``: the time of each stage, in the table and in the run folder."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest

from kd_train.training.profile import PROFILE, STAGES, Profiler, TrainingProfile


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Wall time, CPU time and CPU time of ended children, which a test sets."""
    now = [0.0, 0.0, 0.0]
    monkeypatch.setattr("kd_train.training.profile._Clock._read", staticmethod(lambda: tuple(now)))
    return now


def test_stages_add_up_and_the_rest_has_a_name(clock):
    profiler = Profiler()
    with profiler.stage("images"):
        clock[:] = [1.0, 0.5, 3.0]
    with profiler.epochs("training", 2, 10):
        for _ in range(2):
            with profiler.stage("damage"):
                clock[0] += 1
                clock[1] += 2
            with profiler.stage("validation"), profiler.stage("damage"):  # a part of validation
                clock[0] += 2
            clock[:] = [clock[0] + 1, clock[1] + 1, clock[2] + 0.5]
    with profiler.stage("border weights"):
        clock[0] += 4
    profile = profiler.profile("cpu", 1, 2)
    assert [(one.name, one.seconds, one.cpu_seconds, one.worker_cpu_seconds) for one in profile.once] == [
        ("images", 1.0, 0.5, 3.0),
        ("border weights", 4.0, 0.0, 0.0),
    ]
    [epochs] = profile.epochs
    assert (epochs.epochs, epochs.images, epochs.seconds, epochs.cpu_seconds) == (2, 10, 8.0, 6.0)
    assert epochs.worker_cpu_seconds == 1.0
    assert [(one.name, one.seconds, one.cpu_seconds, one.share) for one in epochs.stages] == [
        ("damage", 2.0, 4.0, 0.25),
        ("validation", 4.0, 0.0, 0.5),
        ("other", 2.0, 2.0, 0.25),
    ]


def test_a_training_without_epochs_has_none(clock):
    profiler = Profiler()
    with profiler.epochs("training", 0, 10):
        pass
    assert profiler.profile("cpu", 1, 0).epochs == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts no CPU time of children")
def test_the_work_of_ended_processes_is_counted():
    profiler = Profiler()
    busy = "import time\nwhile time.process_time() < 0.1: pass"
    with profiler.stage("images"):
        subprocess.run([sys.executable, "-S", "-c", busy], check=True)
    [stage] = profiler.profile("cpu", 1, 1).once
    assert stage.worker_cpu_seconds is not None
    # The child's clock counts nanoseconds, and the system gives its parent ticks of 10 ms.
    assert stage.worker_cpu_seconds >= 0.08


def test_a_profile_is_shown_and_kept(cli, dataset, tiny_options, tmp_path):
    run = tmp_path / "run"
    arguments = ("train", dataset, "-o", run, "--epochs", 1, *tiny_options, "--profile")
    printed = cli(*arguments, "--json").json["profile"]
    kept = (run / PROFILE).read_bytes()
    assert json.loads(kept) == printed
    profile = msgspec.json.decode(kept, type=TrainingProfile)
    [epochs] = profile.epochs
    # Without damage in the recipe, the stage takes no time, and is there all the same.
    assert [one.name for one in epochs.stages] == [*STAGES, "other"]
    assert (epochs.training, epochs.epochs, epochs.images) == ("training", 1, 6)
    assert sum(one.seconds for one in epochs.stages) == pytest.approx(epochs.seconds, abs=0.02)
    assert [one.name for one in profile.once] == ["images", "networks", "training: teacher's features"]
    shown = cli(*arguments, "--resume").stdout  # finished already: only what is done once
    assert "wall s" in shown
    assert "student forward" not in shown
    assert msgspec.json.decode((run / PROFILE).read_bytes(), type=TrainingProfile).epochs == []


def test_tables_have_a_row_for_each_stage(clock):
    profiler = Profiler()
    with profiler.epochs("training", 1, 8), profiler.stage("student forward"):
        clock[:] = [2.0, 3.0, 1.0]
    once, (title, rows) = profiler.profile("cpu", 1, 2).tables()
    assert once == ("once, with 2 worker processes for images", [])
    assert title == "training: 1 epoch of 8 images"
    assert rows == [
        ("student forward", "2.00", "100.0", "3.00"),
        ("other", "0.00", "0.0", "0.00"),
        ("worker processes", "", "", "1.00"),
        ("all", "2.00", "100.0", "4.00"),
    ]
