"""``kdx quantize``."""

from __future__ import annotations

from pathlib import Path

import typer

from kd_train.training.options import TrainOptions
from kdx.cli.output import progress_for, typed
from kdx.cli.shared_options import JSON_OPTION
from kdx.cli.train_options import TRAIN_OPTIONS, with_train_options
from kdx.cli.training_output import report_training, resumable
from kdx.storage.json_records import INT8_FOLDER
from kdx.workflows.packages import needs


@with_train_options("quantize")
def quantize(
    context: typer.Context,
    run: Path = typer.Argument(help="Finished run folder of kdx train; the result is its folder int8."),
    data: Path | None = typer.Option(
        None, help="Where the training data are now. Default: where they were at training."
    ),
    training: TrainOptions = TRAIN_OPTIONS,
    json: bool = JSON_OPTION,
) -> None:
    """Make INT8 networks of a trained detector: its students learn from the quantised teacher.

    INT8 after training (kdx export --precision int8 of a run without this stage) must repeat FP32's
    scores, which many detectors cannot. Here rounding is in the teacher while the student learns,
    so it is no difference between them. It takes a few epochs from the trained weights. The FP32
    networks of the run stay as they are.
    """
    with needs("train,cpu", "training"):
        from kd_train.training.quantization import quantize_run

    with resumable(context, run / INT8_FOLDER, resume=training.resume) as remarks:
        result = quantize_run(run, training, data, progress_for(json))
    report_training(
        result,
        remarks,
        as_json=json,
        then=f"kdx export {typed(run)} -o {typed(f'{run.name}.kdx')} --precision fp32,int8",
    )
