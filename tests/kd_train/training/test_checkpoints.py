"""The files of a run: the teacher, the students of an epoch, the optimiser's state."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import kd_train.training.checkpoints
import kd_train.training.run_folder
from kd_train.models.backbones import create_backbone
from kd_train.training.interrupts import Interrupts
from kd_train.training.options import TrainOptions
from kd_train.training.run_folder import Run
from kd_train.training.train import train
from kd_train.training.trained_pair import load_pair
from kd_train.training.trainer import Trainer
from kdx.errors import CheckpointError
from tests.tiny_training import TINY

# SGD with momentum; six images are two steps an epoch.
OPTIONS = replace(TINY, epochs=3)
RESUME = replace(OPTIONS, resume=True)


class At:
    """Shows nothing, and acts after so many steps of training."""

    def __init__(self, steps: int, act: Callable[[], None]) -> None:
        self.steps, self.act = steps, act

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[At]:
        self.training = description == "training"
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        if self.training:
            self.steps -= steps
            if self.steps == 0:
                self.act()


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory) -> Path:
    """A run that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(dataset, run, OPTIONS)
    return run


@pytest.fixture
def large_state(monkeypatch) -> None:
    """Let the optimiser's state be too large to be written after every epoch."""
    monkeypatch.setattr("kd_train.training.trainer._SMALL_STATE_BYTES", 0)


@pytest.fixture
def written(monkeypatch) -> list[tuple[str, int]]:
    """Names and sizes of what a run writes."""
    found: list[tuple[str, int]] = []
    real = kd_train.training.checkpoints.write_atomic

    def write(path: Path, data: bytes) -> None:
        found.append((path.name, len(data)))
        real(path, data)

    for module in (kd_train.training.checkpoints, kd_train.training.run_folder):
        monkeypatch.setattr(module, "write_atomic", write)
    return found


def assert_same(one: Path, other: Path) -> None:
    """Compare weights, statistics, optimiser's state and losses of both checkpoints bit by bit."""
    for which in ("last", "best"):
        a, b = (Run(path).checkpoint(which) for path in (one, other))
        assert (a.sha256, a.optimiser_sha256, a.epoch) == (b.sha256, b.optimiser_sha256, b.epoch)
        assert [(r.train_loss, r.validation_loss) for r in a.history] == [
            (r.train_loss, r.validation_loss) for r in b.history
        ]
    assert Run(one).config.teacher_sha256 == Run(other).config.teacher_sha256


def optimisers(run: Path) -> list[str]:
    return sorted(path.name[:11] for path in run.glob("*.optimiser.safetensors"))


# What is written


def test_the_teacher_is_written_once(dataset, whole, tmp_path, written):
    train(dataset, tmp_path / "run", OPTIONS)
    assert [name for name, _ in written].count("teacher.safetensors") == 1
    state = load_pair(Run(whole))[0].state_dict()
    teacher = load_file(whole / "teacher.safetensors")
    assert teacher.keys() == {name for name in state if name.startswith("teacher.")}
    students = load_file(whole / Run(whole).checkpoint("last").file)
    assert students.keys() == state.keys() - teacher.keys()


def test_a_large_optimiser_is_not_written_after_every_epoch(dataset, whole, tmp_path, written, large_state):
    train(dataset, tmp_path / "run", OPTIONS)
    assert [name[:11] for name, _ in written if ".optimiser." in name] == ["epoch-00003"]
    assert_same(tmp_path / "run", whole)
    students = sum(value.nbytes for value in load_file(whole / Run(whole).checkpoint("last").file).values())
    a_run = students * 3 + sum(path.stat().st_size for path in whole.glob("*.optimiser.safetensors"))
    overhead = 64 * 1024  # names and shapes before the tensors, and the records
    assert sum(size for name, size in written if name != "teacher.safetensors") < a_run + overhead


def test_a_disk_that_is_full_in_an_epoch_costs_that_epoch_alone(dataset, tmp_path, large_state, monkeypatch):
    """The optimiser's state of the epoch before, which is in memory, is written."""
    real = kd_train.training.checkpoints.write_atomic

    def write(path: Path, data: bytes) -> None:
        if path.name.startswith("epoch-00002"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, data)

    monkeypatch.setattr(kd_train.training.checkpoints, "write_atomic", write)
    with pytest.raises(OSError, match="No space left"):
        train(dataset, tmp_path / "run", OPTIONS)
    last = Run(tmp_path / "run").checkpoint("last")
    assert (last.epoch, last.resumes_at.epoch) == (1, 1)


def test_a_large_optimiser_is_written_again_after_ten_minutes(dataset, tmp_path, written, large_state, monkeypatch):
    clock = iter(range(0, 100_000, 250))  # looked at once an epoch, and once after writing
    own = SimpleNamespace(monotonic=lambda: float(next(clock)), perf_counter=time.perf_counter)
    monkeypatch.setattr("kd_train.training.trainer.time", own)
    train(dataset, tmp_path / "run", replace(OPTIONS, epochs=8))
    assert [name[:11] for name, _ in written if ".optimiser." in name] == ["epoch-00003", "epoch-00006", "epoch-00008"]


def test_a_checkpoints_hash_names_its_teacher_too(dataset, whole, tmp_path):
    from safetensors import safe_open

    with safe_open(whole / Run(whole).checkpoint("best").file, "pt") as file:
        assert file.metadata() == {"teacher": Run(whole).config.teacher_sha256}


def test_last_and_best_are_one_file_where_they_are_one_epoch(whole):
    last, best = (Run(whole).checkpoint(which) for which in ("last", "best"))
    assert last.epoch == best.epoch == 3
    assert last.file == best.file
    assert len(list(whole.glob("epoch-*"))) == 2


# Interrupted


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 3, 5], ids=["end of epoch 1", "in epoch 2", "in epoch 3"])
def test_ctrl_c_writes_what_resuming_at_the_epoch_needs(dataset, whole, tmp_path, large_state, steps):
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", OPTIONS, At(steps, press_ctrl_c))
    complete = (steps - 1) // 2
    assert optimisers(tmp_path / "run") == ([f"epoch-{complete:05d}"] if complete else [])
    result = train(dataset, tmp_path / "run", RESUME)
    assert (result.resumed_after, result.trained_again) == (complete, 0)
    assert_same(tmp_path / "run", whole)


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Remove handlers that libraries of other tests in this process have set, such as Ray's."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal that it could handle")
@pytest.mark.usefixtures("usual_signals")
def test_sigterm_does_what_ctrl_c_does(dataset, whole, tmp_path, large_state):
    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", OPTIONS, At(3, terminate))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    result = train(dataset, tmp_path / "run", RESUME)
    assert (result.resumed_after, result.trained_again) == (1, 0)
    assert_same(tmp_path / "run", whole)


def test_any_failure_keeps_the_last_epoch(dataset, whole, tmp_path, large_state):
    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        train(dataset, tmp_path / "run", OPTIONS, At(5, fail))
    assert train(dataset, tmp_path / "run", RESUME).resumed_after == 2
    assert_same(tmp_path / "run", whole)


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal that it could handle")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("usual_signals")
def test_a_checkpoint_is_written_to_its_end_before_an_interrupt(number):
    done = []

    def work() -> None:
        with Interrupts() as interrupts, interrupts.delayed():
            os.kill(os.getpid(), number)
            done.append("written")
        done.append("never")

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["written"]
    assert signal.getsignal(number) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal that it could handle")
@pytest.mark.usefixtures("usual_signals")
def test_what_commands_set_for_sigterm_does_not_end_the_writing_of_a_checkpoint():
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the fixture restores it
    done = []

    def work() -> None:
        with Interrupts() as interrupts, interrupts.delayed():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("written")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["written"]


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal that it could handle")
@pytest.mark.parametrize("end", ["check", "delayed", "end"])
@pytest.mark.usefixtures("usual_signals")
def test_an_interrupt_that_python_drops_is_raised_again(end):
    """It drops what is raised in ``__del__``, as of a loader of images whose processes end."""

    def work() -> None:
        with Interrupts() as interrupts:
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
            if end == "check":
                interrupts.check()
            if end == "delayed":
                with interrupts.delayed():
                    pass
            assert end == "end"

    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal that it could handle")
@pytest.mark.usefixtures("usual_signals")
def test_training_ends_at_the_next_step_after_a_dropped_interrupt(dataset, tmp_path):
    class Dropping(At):
        def advance(self, steps: int = 1, note: str = "") -> None:
            with contextlib.suppress(KeyboardInterrupt):
                super().advance(steps, note)

    progress = Dropping(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", OPTIONS, progress)
    assert not (tmp_path / "run/last.json").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without a signal that it could handle")
def test_an_applications_own_handler_stays(monkeypatch):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with Interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_training_in_another_thread_leaves_signals_alone(dataset, tmp_path):
    failures: list[BaseException] = []

    def work() -> None:
        try:
            train(dataset, tmp_path / "run", replace(OPTIONS, epochs=1))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert Run(tmp_path / "run").checkpoint("last").epoch == 1


# Killed


def train_until_killed(data: Path, out: Path, options: TrainOptions, write: int) -> list[str]:
    """Train, and drop all writes from the given one on, as after a kill; return those before."""
    real = kd_train.training.checkpoints.write_atomic
    names: list[str] = []

    def die(*_: object) -> None:
        raise SystemExit

    def maybe(path: Path, content: bytes) -> None:
        if len(names) == write:
            with pytest.MonkeyPatch.context() as dead:
                # Nor does anything that the process would still do.
                dead.setattr(Path, "unlink", die)
                die()
        names.append(path.name)
        real(path, content)

    with pytest.MonkeyPatch.context() as patch:
        for module in (kd_train.training.checkpoints, kd_train.training.run_folder):
            patch.setattr(module, "write_atomic", maybe)
        try:
            train(data, out, options)
        except SystemExit:
            assert len(names) == write
    return names


@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True], ids=["small state", "large state"])
def test_a_kill_before_any_write_can_be_resumed(dataset, whole, tmp_path, monkeypatch, large):
    if large:
        # Written after the second epoch and at the end: a kill in the third loses nothing, one in
        # the second an epoch.
        monkeypatch.setattr(Trainer, "_is_due", lambda self, state: len(self.history) in (2, 3))
    every = train_until_killed(dataset, tmp_path / "all", OPTIONS, write=-1)
    assert every[:2] == ["teacher.safetensors", "run.json"]
    for write in range(len(every)):
        run = tmp_path / f"{write}"
        assert train_until_killed(dataset, run, OPTIONS, write) == every[:write]
        complete = every[:write].count("last.json")
        if complete:
            assert load_pair(Run(run))[1].epoch == complete
        result = train(dataset, run, RESUME)
        restart = complete if not large or complete >= 2 else 0
        assert (result.resumed_after, result.trained_again) == (restart, complete - restart)
        assert_same(run, whole)
        assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}
        shutil.rmtree(run)


def test_a_run_killed_twice_resumes(dataset, whole, tmp_path, monkeypatch, large_state):
    run = tmp_path / "run"
    names = train_until_killed(dataset, run, OPTIONS, write=-1)
    shutil.rmtree(run)
    second = [index for index, name in enumerate(names) if name == "last.json"][1]
    train_until_killed(dataset, run, OPTIONS, second + 1)
    assert Run(run).checkpoint("last").epoch == 2
    # Begun again, and killed in the first epoch: the second epoch's checkpoint, whose students are
    # the same, stands.
    train_until_killed(dataset, run, RESUME, 1)
    assert load_pair(Run(run))[1].epoch == 2
    result = train(dataset, run, RESUME)
    assert (result.resumed_after, result.trained_again) == (0, 2)
    assert_same(run, whole)


def test_leftovers_of_a_killed_run_are_removed_when_it_is_resumed(dataset, whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    left = [f".{name}.abcd_123.part" for name in ("teacher.safetensors", "run.json", "best.json", "last.json")]
    for name in (*left, ".epoch-00002-abc.safetensors.abcd_123.part", "epoch-00002-0123456789ab.safetensors"):
        (run / name).write_bytes(b"half")
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    train(dataset, run, RESUME)
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()} | {"notes.txt"}


# The teacher


@pytest.mark.slow
def test_the_teacher_of_a_resumed_run_is_the_one_it_began_with(dataset, tmp_path):
    weights = tmp_path / "teacher.safetensors"
    options = replace(OPTIONS, weights=str(weights))
    torch.manual_seed(1)
    save_file(create_backbone("test_resnet").state_dict(), weights)
    train(dataset, tmp_path / "whole", options)
    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", options, At(1, press_ctrl_c))  # before an epoch was complete
    save_file(create_backbone("test_resnet").state_dict(), weights)  # other weights under the same name
    train(dataset, tmp_path / "run", replace(options, resume=True))
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_teacher_that_was_altered_or_lost_is_refused(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    teacher = run / "teacher.safetensors"
    data = teacher.read_bytes()
    teacher.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"'teacher\.safetensors' in .* was altered"):
        load_pair(Run(run))
    teacher.unlink()
    with pytest.raises(CheckpointError, match=r"'teacher\.safetensors' is missing"):
        load_pair(Run(run))
