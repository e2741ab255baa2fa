"""Whether a run is resumed with the options and the images that it began with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from kd_train.models.weights import weights_marks
from kd_train.recipes import Recipe
from kd_train.training.distilled_teacher import TEACHER_FOLDER
from kd_train.training.from_options import is_path
from kd_train.training.options import TrainOptions
from kd_train.training.run_config import RunConfig
from kdx.errors import CheckpointError
from kdx.storage.json_records import RUN_INDEX, encode_record

_OPTIONS = ("method", "seed", "tile", "subfolders", "good_folders", "odd_images")
# What the images decide, unless an option does.
_OF_IMAGES = ("height", "width", "fixed_size")
# What recorded fields come from, where that is not an option of the same name.
_COMES_FROM = {
    "source_sha256": "the teacher of `teacher_from`",
    "extra_sha256": "the images of `extra_images`",
    "heads": "the taps of the teacher",
    "backbones": "backbone",
    "blur_sigma": "sigma",
    "strides": "taps",
}
# Where one of these differs, so does much of the recipe that follows from it.
_DECIDE_OTHERS = ("method", "backbones", "teacher_from")


def as_begun(out: Path, options: TrainOptions, begun: RunConfig | None) -> TrainOptions:
    """Return the options of a resumed run, with the compact teacher that came from another run.

    The user gave only ``init`` for that teacher, or ``teacher_from`` with a folder that is gone,
    and the run has a copy of it: what the options leave out, the run has recorded.
    """
    if begun is None or not begun.recipe.teacher_from:
        return options
    if _is_gone(out, options.teacher_from, begun):
        options = replace(options, teacher_from=None)
    elif begun.init is UNSET or options.init is not None:
        return options
    recorded: dict[str, Any] = {
        "backbone": ",".join(begun.recipe.backbones),
        "taps": "/".join(",".join(group) for group in begun.recipe.taps),
        "teacher_from": ",".join(begun.recipe.teacher_from),
        "teacher_epochs": begun.recipe.teacher_epochs,
    }
    return replace(options, **{name: value for name, value in recorded.items() if getattr(options, name) is None})


def _is_gone(out: Path, teacher_from: str | None, begun: RunConfig) -> bool:
    """Whether ``teacher_from`` names a run that is gone, and whose teacher the begun run has."""
    if not teacher_from or not begun.teacher or (out / TEACHER_FOLDER).is_dir():
        return False
    if (Path(teacher_from) / RUN_INDEX).exists():
        return False
    if begun.options is UNSET:
        return is_path(teacher_from)
    return bool(begun.options.get("teacher_from") == str(Path(teacher_from).absolute()))


def require_same_options(out: Path, began: RunConfig, options: TrainOptions, recipe: Recipe) -> None:
    """Compare what the user chose, before images are read and weights are looked for.

    Raises:
        CheckpointError: Something was chosen differently.
    """
    asked = msgspec.json.decode(encode_record(recipe), type=Recipe)
    _compare(out, _chosen(began, began.recipe), _chosen(options, asked))


def require_same_teacher(out: Path, began: RunConfig, weights: Sequence[str], *, extra_images: bool) -> None:
    """Compare the options of a compact teacher that is finished, without opening what they name.

    Args:
        out: The run folder.
        began: The configuration of the run.
        weights: What the user chose as weights.
        extra_images: Whether the user named further images.

    Raises:
        CheckpointError: Something was chosen differently.
    """
    more = {False: "none", True: "some"}
    before = {"weights": began.weights, "extra_images": more[bool(began.extra_sha256)]}
    known = all(any(mark in began.weights for mark in weights_marks(each)) for each in weights)
    now = {"weights": began.weights if known else ",".join(weights), "extra_images": more[extra_images]}
    _compare(out, dict(before), dict(now))


def require_same_run(out: Path, began: RunConfig, config: RunConfig) -> None:
    """Compare everything that decides the result.

    Raises:
        CheckpointError: Something differs.
    """
    # Compared in the recorded form, in which enumerations are texts.
    asked = msgspec.json.decode(encode_record(config), type=RunConfig)
    before, now = _decisions(began), _decisions(asked)
    images, images_now = _images(began), _images(asked)
    if images != images_now:
        now.update({name: before[name] for name in _OF_IMAGES})
        common = len(images & images_now)
        received = f"{common} of those, and {len(images_now) - common} new"
        expected = f"the same {len(images)} images"
        _compare(out, before, now, "it began with other images", expected=expected, received=received)
    _compare(out, before, now)
    # After the options, of which some divide the images.
    held_out, held_out_now = (sorted(config.validation_images.values()) for config in (began, asked))
    if held_out != held_out_now:
        expected, received = f"the same {len(held_out)} images held out", "another division of the same images"
        _compare(out, before, now, "it held out other images", expected=expected, received=received)


def _compare(
    out: Path,
    began: dict[str, object],
    now: dict[str, object],
    reason: str = "",
    expected: str = "",
    received: str = "",
) -> None:
    """Refuse settings that differ, and for the reason that is given beside them."""
    changed = [name for name in began if began[name] != now[name]]
    if not changed and not reason:
        return
    changed = [name for name in changed if name in _DECIDE_OTHERS] or changed
    if "taps" in changed and "strides" in changed:  # one option, recorded twice
        changed.remove("strides")
    options = [f"{', '.join(map(_named, changed))} changed since it began"] if changed else []
    _refuse(
        out,
        "; ".join(filter(None, [*options, reason])),
        ", ".join(filter(None, [*(_with_value(name, began) for name in changed), expected])),
        ", ".join(filter(None, [*(_with_value(name, now) for name in changed), received])),
    )


def _named(name: str) -> str:
    return _COMES_FROM.get(name, name)


def _with_value(name: str, values: dict[str, object]) -> str:
    value = values[name]
    return f"{_named(name)} {str(value)[:12] or 'none' if name.endswith('_sha256') else value}"


def _refuse(out: Path, reason: str, expected: str, received: str) -> None:
    raise CheckpointError(
        f"'{out}' cannot be resumed: {reason}",
        expected=expected,
        received=received,
        fix="give the same images and options (`group_by` and `parts` too), or replace the run: `force=True` "
        "without `resume`",
    )


def _images(config: RunConfig) -> set[str]:
    return {*config.train_images.values(), *config.validation_images.values()}


def _chosen(source: RunConfig | TrainOptions, recipe: Recipe) -> dict[str, object]:
    """Return what the user chose, by name: options and the recipe's fields."""
    chosen = {**{name: getattr(source, name) for name in _OPTIONS}, **msgspec.structs.asdict(recipe)}
    del chosen["distance"]  # once an option, without effect on the deployed map; the run uses its pair_spec
    del chosen["heads"]  # found in the networks that the user chose
    return chosen


def _decisions(config: RunConfig) -> dict[str, object]:
    """Return the settings, by name, in which a resumed run must agree with its beginning."""
    return {
        **_chosen(config, config.recipe),
        "heads": config.recipe.heads,
        "weights": config.weights,
        "source_sha256": config.source_sha256,
        "extra_sha256": config.extra_sha256,
        **msgspec.structs.asdict(config.input),
    }
