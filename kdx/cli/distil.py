"""``kdx distil``."""

from __future__ import annotations

from pathlib import Path

import typer

from kd_train.training.options import TrainOptions
from kdx.cli.output import out, print_json, progress_for, report_bad, report_remarks, shown, typed
from kdx.cli.shared_options import JSON_OPTION
from kdx.cli.train_options import TRAIN_OPTIONS, with_train_options
from kdx.cli.training_output import nothing_to_resume, report_compact_teacher, resumable
from kdx.workflows.packages import needs


@with_train_options("distil")
def distil(
    context: typer.Context,
    data: Path = typer.Argument(
        help="Folder of images: a published data set, the MVTec layout, or good images directly."
    ),
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

    remarks = nothing_to_resume(run) if training.resume else []
    report_remarks(remarks)
    with resumable(context, run, resume=training.resume):
        result = train_pair(data, run, training, progress_for(json), teacher_only=True)
    config = result.run.config
    if json:
        print_json(
            {
                "run": str(run),
                "compact_teacher": config.distilled,
                "backbone": config.backbone,
                "weights": config.weights,
                "train_images": len(config.train_images),
                "held_out_images": len(config.validation_images),
                "bad_images": result.bad_images,
                "remarks": [*remarks, *result.remarks],
            }
        )
        return
    report_bad(result.bad_images)
    report_remarks(result.remarks)
    out.print(f"[bold]{shown(run)}[/]: {config.backbone} ({config.weights})")
    assert config.distilled is not None
    report_compact_teacher(config.distilled)
    out.print(f"next: kdx train DATA --teacher-from {typed(run)} --out RUN")
