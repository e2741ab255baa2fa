"""``kdx train``."""

from __future__ import annotations

import contextlib
import difflib
from dataclasses import replace
from pathlib import Path

import typer

from kd_train.training.distilled_teacher import DistilledTeacher
from kd_train.training.options import TrainOptions
from kdx.cli.error_output import DiskFullError, Interrupted, is_disk_full, resume_command
from kdx.cli.flags import add_flags
from kdx.cli.output import out, print_json, progress_for, report_bad, report_remarks, shown, typed
from kdx.cli.shared_options import JSON_OPTION
from kdx.cli.train_options import TRAIN_OPTIONS, with_train_options
from kdx.remarks import Remark, remark
from kdx.storage.json_records import RUN_INDEX
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
    remarks = _nothing_to_resume(run) if training.resume else []
    report_remarks(remarks)  # before hours of training
    before = _index_of(run)
    try:
        result = train_pair(data, run, options, progress_for(json))
    except (KeyboardInterrupt, OSError) as error:
        # An earlier run that was to be replaced is still there, and is not this one.
        begun = _index_of(run)
        if begun is None or (begun == before and not training.resume):
            raise
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"continue with: {resume_command(context)}") from None
        if is_disk_full(error):
            raise DiskFullError(error, resume_command(context)) from error
        raise
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


def _index_of(run: Path) -> bytes | None:
    """Return the content of a run's index, which no two runs share; None without one."""
    with contextlib.suppress(OSError):
        return (run / RUN_INDEX).read_bytes()
    return None


def _nothing_to_resume(run: Path) -> list[Remark]:
    if (run / RUN_INDEX).exists():
        return []
    return remark("nothing_to_resume", "run to resume was not found, so training begins with the first epoch", [run])


def report_compact_teacher(made: DistilledTeacher) -> None:
    """Print from how many images a compact teacher learnt, and how far from its source it is."""
    more = f" and {made.extra_images} further images" if made.extra_images else ""
    out.print(f"  the teacher learnt from {made.images} good images in {made.variants} variants each{more}")
    distances = ", ".join(f"{tap} {each.good:.3f} ({each.defects:.3f})" for tap, each in made.residuals.items())
    out.print(f"  its distance from its source on held-out good images (with drawn defects): {distances}")


def method_options(context: typer.Context, method: str) -> dict[str, str]:
    """Read a method's own options from what the command line left over.

    Raises:
        OptionError: What is left over is no option of the method.
    """
    from kd_train.methods import find_method
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
            near = difflib.get_close_matches(name, [*known, *(f"--{other}" for other in own)], n=2)
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
