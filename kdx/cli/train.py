"""``kdx train``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from kd_train.training.options import TrainOptions
from kdx.cli.flags import add_flags
from kdx.cli.output import progress_for, typed
from kdx.cli.shared_options import JSON_OPTION
from kdx.cli.train_options import DATA_ARGUMENT, TRAIN_OPTIONS, with_train_options
from kdx.cli.training_output import report_training, resumable
from kdx.workflows.method_options import read_method_options
from kdx.workflows.packages import needs

# A method's own options (--part of dual-det, --structure of dskd) are read from what the command
# line does not know.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


@with_train_options("train")
def train(
    context: typer.Context,
    data: Path = DATA_ARGUMENT,
    run: Path = typer.Option(..., "--out", "-o", help="Run folder to write."),
    training: TrainOptions = TRAIN_OPTIONS,
    json: bool = JSON_OPTION,
) -> None:
    """Learn what good parts look like.

    The teacher is a network that knows ImageNet; the student learns to imitate it on good parts
    only, and fails on what it has never seen. Some good images are held out for the threshold (kdx
    calibrate). Ctrl-C and SIGTERM keep every complete epoch. A kill costs up to ten minutes of
    training, and the epoch that was running.
    """
    with needs("train,cpu", "training"):
        from kd_train.methods import find_method
        from kd_train.training.train import train as train_pair

    add_flags({option.name for option in find_method(training.method).options})
    known = [option for parameter in context.command.params for option in parameter.opts]
    options = replace(training, method_options=read_method_options(context.args, training.method, known))
    with resumable(context, run, resume=training.resume) as remarks:
        result = train_pair(data, run, options, progress_for(json))
    both = "" if result.int8 is None else " --precision fp32,int8"
    report_training(result, remarks, as_json=json, then=f"kdx export {typed(run)} -o {typed(f'{run.name}.kdx')}{both}")
