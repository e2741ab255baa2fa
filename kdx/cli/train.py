"""``kdx train``."""

from __future__ import annotations

import difflib
from dataclasses import replace
from pathlib import Path

import typer

from kd_train.training.options import TrainOptions
from kdx.cli.flags import add_flags
from kdx.cli.output import progress_for, typed
from kdx.cli.shared_options import JSON_OPTION
from kdx.cli.train_options import DATA_ARGUMENT, TRAIN_OPTIONS, with_train_options
from kdx.cli.training_output import report_training, resumable
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
        from kd_train.training.train import train as train_pair

    options = replace(training, method_options=method_options(context, training.method))
    with resumable(context, run, resume=training.resume) as remarks:
        result = train_pair(data, run, options, progress_for(json))
    both = "" if result.int8 is None else " --precision fp32,int8"
    report_training(result, remarks, as_json=json, then=f"kdx export {typed(run)} -o {typed(f'{run.name}.kdx')}{both}")


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
