"""``kdx distil``."""

from __future__ import annotations

from pathlib import Path

import typer

from kd_train.training.options import TrainOptions
from kdx.cli.output import progress_for, typed
from kdx.cli.shared_options import JSON_OPTION
from kdx.cli.train_options import DATA_ARGUMENT, TRAIN_OPTIONS, with_train_options
from kdx.cli.training_output import report_training, resumable
from kdx.workflows.packages import needs


@with_train_options("distil")
def distil(
    context: typer.Context,
    data: Path = DATA_ARGUMENT,
    run: Path = typer.Option(..., "--out", "-o", help="Run folder to write, for --teacher-from of kdx train."),
    training: TrainOptions = TRAIN_OPTIONS,
    json: bool = JSON_OPTION,
) -> None:
    """Make a compact teacher, for several trainings.

    It is the first stage of kdx train --backbone compact-m, by itself: the compact network learns
    the features of a pretrained one. Other products learn from the same teacher when they are
    trained with --teacher-from and this run folder; --extra-images shows the teacher their images
    too.
    """
    with needs("train,cpu", "training"):
        from kd_train.training.train import train as train_pair

    with resumable(context, run, resume=training.resume) as remarks:
        result = train_pair(data, run, training, progress_for(json), teacher_only=True)
    report_training(result, remarks, as_json=json, then=f"kdx train DATA --teacher-from {typed(run)} --out RUN")
