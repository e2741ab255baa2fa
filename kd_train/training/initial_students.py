"""Training that starts from the students of another run: new good images, another lamp.

Only the students' weights are taken over. The teacher must be the same, to the bit: a student has
learnt to answer as its teacher does. What follows from images is made again: border weights, and
later thresholds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from msgspec import UNSET

from kd_export.graph import PairSpec
from kd_train.models.pair import Pair
from kd_train.recipes import Recipe
from kd_train.training.checkpoints import Tensors
from kd_train.training.distilled_teacher import COMPACT_TEACHER
from kd_train.training.options import TrainOptions
from kd_train.training.run_config import InitialStudents, RunConfig
from kd_train.training.run_folder import Run
from kdx.errors import CheckpointError, OptionError
from kdx.imaging.image_identity import Identity


class StudentsOfRun:
    """The students of a finished run.

    Args:
        path: The run folder.

    Raises:
        CheckpointError: It is no run folder, or its training is not finished.
        OptionError: It has no students, or INT8 ones.

    Attributes:
        config: The configuration of that run.
        record: What ``run.json`` records of them.
    """

    def __init__(self, path: Path) -> None:
        self.run = Run(path)
        self.config = self.run.config
        if self.config.method == COMPACT_TEACHER or self.config.quantized is not UNSET:
            kind = "holds a compact teacher and no students" if self.config.quantized is UNSET else "is INT8"
            raise OptionError(
                f"the run '{path}' {kind}",
                expected="a run with students in FP32 as `init`",
                fix=f"name the run folder around it, '{path.parent}'",
            )
        self.run.require_finished()
        self.checkpoint = self.run.checkpoint(self.config.recipe.checkpoint)
        self.record = InitialStudents(
            run=str(path.absolute()),
            checkpoint_sha256=self.checkpoint.sha256,
            teacher_sha256=self.config.teacher_sha256,
            epoch=self.checkpoint.epoch,
            data_sha256=self.config.data_sha256,
        )

    def fill(self, pair: Pair, method: str, recipe: Recipe) -> None:
        """Copy the students into a pair whose teacher has its weights already.

        Args:
            pair: The pair.
            method: The name of its method.
            recipe: The recipe from which it was built.

        Raises:
            CheckpointError: Method, networks, layers, sizes of weights, or the teacher's weights
                differ; what differs is named.
        """
        theirs = _parts(self.config.method, self.config.recipe, self.config.pair_spec)
        ours = _parts(method, recipe, pair.spec)
        different = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
        if different:
            raise self._refused(
                ", ".join(f"`{name}`" for name in different),
                *(", ".join(f"{name} {each.get(name, 'default')}" for name in different) for each in (theirs, ours)),
            )
        tensors, own = self.run.tensors(self.checkpoint), pair.state_dict()
        if unlike := _first_unlike(tensors, own):
            raise self._refused(*unlike)
        for name, value in own.items():
            if name.startswith("teacher.") and not torch.equal(tensors[name], value.cpu()):
                raise self._refused(
                    "weights of the teacher",
                    f"those of that run: {self.config.weights}",
                    f"other weights, first in '{name.removeprefix('teacher.')}'",
                )
        pair.load_state_dict(tensors)

    def _refused(self, what: str, expected: str, received: str) -> CheckpointError:
        return CheckpointError(
            f"the students of '{self.run.path}' do not fit this training, which has not the same {what}",
            expected=expected,
            received=received,
            fix=f"train with the options of '{self.run.path}', or leave out `init`",
        )


def without_past(out: Path, options: TrainOptions, begun: RunConfig | None) -> TrainOptions:
    """Return the options without an ``init`` whose run is gone or unfinished, if it is not needed.

    That is so from the first epoch on, if it is the run that is recorded: the command that began
    the training resumes it too.

    Args:
        out: The run folder.
        options: The options.
        begun: The configuration of the run that is resumed, or None.

    Raises:
        CheckpointError: Another run is named, and there is none.
    """
    if begun is None or begun.init is UNSET or options.init is None or not _has_restart(out):
        return options
    if options.init.absolute() == Path(begun.init.run).absolute():
        with contextlib.suppress(CheckpointError):
            Run(options.init).require_finished()
            return options
        return replace(options, init=None)
    if options.init.exists():
        return options
    raise CheckpointError(
        f"'{out}' cannot be resumed: there is no run folder '{options.init}'",
        expected=f"'{begun.init.run}', with which it began, or no `init`",
        received=str(options.init),
        fix="leave out `init`: there is an epoch to resume from",
    )


def open_students(out: Path, options: TrainOptions, begun: RunConfig | None) -> StudentsOfRun | None:
    """Return the students with which a training starts; None for random or for its own ones.

    Args:
        out: The run folder.
        options: The options.
        begun: The configuration of the run that is resumed, or None.

    Raises:
        CheckpointError: The run of ``init`` cannot be used, or is another one than that with which
            the resumed run began.
        OptionError: It is the run folder itself, or has no students in FP32.
    """
    recorded = UNSET if begun is None else begun.init
    if options.init is None:
        if recorded is not UNSET and not _has_restart(out):
            raise CheckpointError(
                f"'{out}' cannot be resumed without the students with which it began: it has no epoch to resume from",
                fix=f"give the options that it began with, `init='{recorded.run}'` among them",
            )
        return None
    if options.init.resolve() == out.resolve():
        raise OptionError(
            f"'{out}' cannot start from itself",
            fix="pass `resume=True` with more `epochs` to extend it, or choose another `out`",
        )
    found = StudentsOfRun(options.init)
    if begun is not None and (recorded is UNSET or recorded.checkpoint_sha256 != found.record.checkpoint_sha256):
        expected = "random students" if recorded is UNSET else f"checkpoint {recorded.checkpoint_sha256[:16]}"
        raise CheckpointError(
            f"'{out}' cannot be resumed: it began with other students",
            expected=expected,
            received=f"checkpoint {found.record.checkpoint_sha256[:16]}, of '{options.init}'",
            fix="leave out `init`" if recorded is UNSET or _has_restart(out) else "name the run that it began with",
        )
    return found


def learnt_before(students: StudentsOfRun | None, begun: RunConfig | None) -> Sequence[Identity]:
    """Return the hashes of images that initial students learnt from: these are not held out.

    A run that is resumed has recorded them with its own training images. Neither are held out.
    """
    if begun is not None:
        return [] if begun.init is UNSET else begun.trained_on or []
    return [] if students is None else students.config.known_images().images


def _has_restart(out: Path) -> bool:
    return (out / "last.json").exists() and Run(out).checkpoint("last").resumes_at.epoch > 0


def _parts(method: str, recipe: Recipe, spec: PairSpec) -> dict[str, str]:
    """Return what students are built from, by the parameter that decides it."""
    return {
        "method": method,
        **recipe.options,
        "backbone": ",".join(recipe.backbones),
        "teacher_from": ",".join(recipe.teacher_from) or "none",
        "taps": ",".join(tap.name for tap in spec.taps),
    }


def _first_unlike(tensors: Tensors, own: Tensors) -> tuple[str, str, str] | None:
    """Return what the first layer or size is that two sets of tensors do not share."""
    shapes, ours = ({name: tuple(value.shape) for name, value in each.items()} for each in (tensors, own))
    for name in sorted({*shapes, *ours}):
        if shapes.get(name) != ours.get(name):
            what = "sizes of weights" if name in shapes and name in ours else "layers"
            expected, received = (f"'{name}' {each.get(name, 'missing')}" for each in (shapes, ours))
            return what, expected, received
    return None
