"""The options of training on the command line, made of ``kd_train/training/options.py``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import typer

from kd_train.training.options import TrainOptions, choices, declared
from kdx.errors import OptionError
from kdx.imaging.field_of_view import Crop, parse_crop
from kdx.imaging.image_size import ImageSize, parse_size

DATA_ARGUMENT = typer.Argument(
    help="Folder of images: a published data set, the MVTec layout, or good images directly."
)
# Types that the command line writes in another way: its type, its default, and how it is read.
_RANGE, _NAMES, _SIZE, _CROP = tuple[int, int], tuple[str, ...], ImageSize | None, Crop | None


def with_train_options(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the training options that it offers.

    The command has a parameter ``training`` of type ``TrainOptions``; the options stand in its
    place.

    Args:
        name: The command's name in the table of options.
    """

    def replace(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function)
        offered = {
            each.name: _parameter(each, option, kind) for each, option, kind in declared() if name in option.commands
        }
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name == "training":
                parameters += offered.values()
            else:
                kind = inspect.Parameter.KEYWORD_ONLY
                parameters.append(parameter.replace(kind=kind, annotation=hints[parameter.name]))

        def command(**given: Any) -> None:
            values = {each: _read(each, given.pop(each)) for each in offered}
            function(**given, training=TrainOptions(**values))

        command.__name__, command.__doc__, command.__module__ = function.__name__, function.__doc__, function.__module__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return replace


def _parameter(each: Any, option: Any, kind: Any) -> inspect.Parameter:
    """Return the parameter of a command that typer makes the option of."""
    default, annotation = each.default, kind
    if kind == _RANGE:
        annotation, default = str, ":".join(map(str, default))
    elif kind == _NAMES:
        annotation, default = list[str], list(default)
    elif kind in (_SIZE, _CROP):
        annotation = str | None
    elif choices(kind):  # checked with everything else that is checked of them, and not by typer
        annotation = str | None if type(None) in get_args(kind) else str
    low, high = option.shell_limits
    info = typer.Option(
        default,
        f"--{option.flag or each.name.replace('_', '-')}",
        help=option.help,
        metavar=option.metavar,
        min=low,
        max=high,
    )
    return inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=info, annotation=annotation)


def _read(name: str, value: Any) -> Any:
    kind = _TYPES[name]
    if kind == _NAMES:
        return tuple(value)
    if kind == _SIZE and value is not None:
        return parse_size(f"`{name}`", value)
    if kind == _CROP and value is not None:
        return parse_crop(value)
    return _read_range(name, value) if kind == _RANGE else value


# The default of the parameter that the options replace.
TRAIN_OPTIONS = TrainOptions()
_TYPES = {each.name: kind for each, _, kind in declared()}


def _read_range(name: str, text: str) -> tuple[int, int]:
    try:
        low, high = (int(part) for part in text.split(":"))
    except ValueError as error:
        raise OptionError(f"`{name}` is not a range", expected="LOW:HIGH, e.g. 0:4095", received=text) from error
    return low, high
