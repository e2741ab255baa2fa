"""The command that began a run, as run.json records it and as messages print it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import UNSET

from kd_train.training.distilled_teacher import COMPACT_TEACHER
from kd_train.training.options import TrainOptions, declared
from kd_train.training.run_config import RunConfig
from kdx.imaging.field_of_view import Crop
from kdx.imaging.image_size import ImageSize, say_size
from kdx.storage.json_records import RUN_INDEX

_SIZE, _CROP, _RANGE = ImageSize | None, Crop | None, tuple[int, int]


def recorded_options(options: TrainOptions) -> dict[str, Any]:
    """Return the options of a training for run.json, by name; defaults are left out.

    Paths are absolute, because the command that continues the run may be given in another folder.
    """
    recorded = options.changed()
    for name in ("parts", "init"):
        if name in recorded:
            recorded[name] = _absolute(recorded[name])
    if "extra_images" in recorded:
        recorded["extra_images"] = [_absolute(each) for each in recorded["extra_images"]]
    for name, is_path in (("weights", Path.is_file), ("teacher_from", _is_run)):
        if name in recorded:
            parts = [part.strip() for part in recorded[name].split(",")]
            recorded[name] = ",".join(_absolute(each) if is_path(Path(each)) else each for each in parts)
    return recorded


def continuing_command(path: Path, config: RunConfig) -> str:
    """Return the advice that names the command which continues the training of a run.

    Args:
        path: The run folder.
        config: Its configuration, with FP32 networks; the data folder is known.
    """
    out = str(path.parent if config.method == COMPACT_TEACHER else path)
    if config.options is UNSET:
        command = ["kdx", "train", config.data, "--out", out, "--method", config.method]
        if config.category is not None:
            command += ["--category", config.category]
        return f"continue with its other options: {shlex.join([*command, '--resume'])}"
    given = dict(config.options)
    if config.cycles is not UNSET:
        given["epochs"] = config.recipe.epochs
    command = ["kdx", config.command, config.data, "--out", out, *flags_of(given), "--resume"]
    return f"continue it: {shlex.join(command)}"


def flags_of(options: Mapping[str, Any]) -> list[str]:
    """Return options as the command line takes them.

    Args:
        options: Values by name, as :meth:`.TrainOptions.changed` returns them.
    """
    words: list[str] = []
    for each, option, kind in declared():
        if each.name not in options:
            continue
        flag, value = f"--{option.flag or each.name.replace('_', '-')}", options[each.name]
        if value is True:
            words.append(flag)
        elif kind == tuple[str, ...]:
            words += [word for one in value for word in (flag, one)]
        else:
            words += [flag, _as_text(value, kind)]
    for name, value in options.get("method_options", {}).items():
        words += [f"--{name}", value]
    return words


def _as_text(value: Any, kind: Any) -> str:
    if kind == _SIZE:
        return say_size(value)
    if kind in (_CROP, _RANGE):
        return (":" if kind == _RANGE else ",").join(map(str, value))
    return str(value)


def _is_run(path: Path) -> bool:
    return (path / RUN_INDEX).is_file()


def _absolute(name: str) -> str:
    return str(Path(name).absolute())
