"""``kdx train``."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

import typer

from kd_train.training.options import TrainOptions
from kdx.cli.flags import add_flags
from kdx.cli.output import out, print_json, progress_for, report_bad, report_remarks, shown, typed
from kdx.cli.shared_options import JSON_OPTION
from kdx.cli.train_options import TRAIN_OPTIONS, with_train_options
from kdx.cli.training_output import nothing_to_resume, report_compact_teacher, resumable
from kdx.text import number_of
from kdx.workflows.packages import needs

# A method's own options (--part of dual-det, --structure of dskd) are read from what the command
# line does not know.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


@with_train_options("train")
def train(
    context: typer.Context,
    data: Path = typer.Argument(
        help="Folder of images: a published data set, the MVTec layout, or good images directly."
    ),
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
        from kd_train.training.train import train as train_pair

    options = replace(training, method_options=method_options(context, training.method))
    remarks = nothing_to_resume(run) if training.resume else []
    report_remarks(remarks)  # before hours of training
    with resumable(context, run, resume=training.resume):
        result = train_pair(data, run, options, progress_for(json))
    config, last = result.run.config, result.history[-1]
    if json:
        print_json(
            {
                "run": str(run),
                "epochs": last.epoch,
                "train_loss": last.train_loss,
                "validation_loss": last.validation_loss,
                "compact_teacher": config.distilled,
                "train_images": len(config.train_images),
                "held_out_images": len(config.validation_images),
                "seconds": sum(record.seconds for record in result.history),
                "resumed_after": result.resumed_after,
                "trained_again": result.trained_again,
                "bad_images": result.bad_images,
                "remarks": [*remarks, *result.remarks],
            }
        )
        return
    report_bad(result.bad_images)
    report_remarks(result.remarks)
    out.print(f"[bold]{shown(run)}[/]: {config.method}, {config.backbone} ({config.weights})")
    out.print(f"  {config.pair_spec.describe()}")
    if config.distilled is not None:
        report_compact_teacher(config.distilled)
    if result.resumed_after or result.trained_again:
        again = result.trained_again
        out.print(
            f"  resumed after epoch {result.resumed_after}"
            + (f", training {number_of(again, '[epoch|epochs]')} again" if again else "")
        )
    out.print(
        f"  {number_of(len(config.train_images), '[image|images]')} trained on, "
        f"{len(config.validation_images)} held out, "
        f"at {config.recipe.image_size}²"
    )
    out.print(f"  epoch {last.epoch}: training loss {last.train_loss:.4f}, held-out loss {last.validation_loss:.4f}")
    out.print(f"next: kdx export {typed(run)} -o {typed(f'{run.name}.kdx')}")


def method_options(context: typer.Context, method: str) -> dict[str, str]:
    """Read a method's own options from what the command line left over.

    Raises:
        OptionError: What is left over is no option of the method.
    """
    from kd_train.methods import find_method, methods
    from kdx.errors import OptionError
    from kdx.workflows.many.catalog import REMOVED

    own = {option.name for option in find_method(method).options}
    add_flags(own)
    found: dict[str, str] = {}
    rest = list(context.args)
    while rest:
        word = rest.pop(0)
        name, has_value, value = word.partition("=")
        if not name.startswith("--"):
            raise OptionError(f"'{word}' was not expected", fix="see kdx train --help")
        if name[2:] in REMOVED:
            raise OptionError(f"{name} is no longer an option", fix=REMOVED[name[2:]])
        if name[2:] not in own:
            known = [option for parameter in context.command.params for option in parameter.opts]
            others = [each.name for each in methods().values() if name[2:] in {option.name for option in each.options}]
            near = [f"--method {other}" for other in others] or difflib.get_close_matches(
                name, [*known, *(f"--{other}" for other in own)], n=2
            )
            raise OptionError(
                f"{method} has no option {name}",
                expected=" or ".join(near or sorted(f"--{other}" for other in own)) or "none of its own",
                fix="see kdx train --help, and kdx methods for what each method adds",
            )
        if not has_value:
            if not rest:
                raise OptionError(f"{name} needs a value")
            value = rest.pop(0)
        found[name[2:]] = value
    return found
