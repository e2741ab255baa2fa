"""The papers' hyper-parameters: one TOML file for each method, with overrides by backbone."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from kd_export.graph import Combine, Distance, ScoreRule
from kd_train.models import compact
from kd_train.models.compact import Head
from kd_train.models.pair import Method, PairOptions
from kd_train.models.teacher import TeacherOptions, is_compact
from kdx.errors import OptionError
from kdx.imaging.image_size import ImageSize, both_sides, require_size, say_size, size_of
from kdx.storage.json_records import describe_invalid

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

# The source of compact networks, unless another is named. Its weights are a package.
DEFAULT_SOURCE = ("tf_efficientnet_lite0",)
_COMPACT_TEACHER = "compact_teacher.toml"
# The share of the images that the students of compact networks see damaged, of every method.
_COMPACT_DAMAGE = 0.5
# The shortest and the longest side of what networks see, in pixels.
_SIDES = 32, 4096


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hyper-parameters by which a pair is built and trained.

    Attributes:
        backbones: The names of the teacher's networks, timm's or compact ones: one for each group
            of taps, or one for all.
        image_size: The size at which the networks run, in pixels: the side of a square, or height
            and width.
        crop_from: The size to which images are resized before ``image_size`` is cut from their
            centre, of the same proportions; 0 for no crop.
        epochs: The number of passes over the training images.
        batch_size: The number of images in a step.
        optimiser: ``sgd`` or ``adam``.
        learning_rate: The learning rate, or its peak if there is a schedule.
        momentum: The momentum of SGD.
        betas: The betas of Adam.
        weight_decay: The factor of the L2 penalty.
        schedule: ``constant``; ``one-cycle`` (PyTorch's: warm-up over the first 30 % of the steps,
            then cosine decay to zero, while momentum, or the first beta, goes from 0.95 to 0.85 and
            back); or ``plateau`` (PyTorch's defaults: a tenth after ten epochs without a lower
            validation loss).
        validation_fraction: The share of the good images that is held out for the validation loss
            and for calibration.
        checkpoint: The checkpoint that is the result: ``last``, or ``best`` for the lowest
            validation loss.
        strides: The strides of each group's default taps.
        taps: The names of each group's taps; empty for the backbone's features at ``strides``.
        blur_sigma: The standard deviation of the map's Gaussian blur, in map pixels.
        combine: How the maps of the taps are combined; None for the method's own.
        distance: The distance between features; None for the method's own. There is no option for
            it, because on unit vectors both distances are the same number. Runs of schema 2 may
            have one.
        score: The rule by which the map becomes a score; None for the method's own.
        options: The values of the method's own options that differ from its defaults.
        damage: The share of the training images that students see damaged.
        border_weights: Whether the map that makes the score is weighted by the distance from the
            border, see :mod:`kd_export.graph.border`.
        mixed_precision: Whether the students' forward pass is computed in BF16 during training.
        teacher_from: The networks in timm from which compact networks learn: one for each group of
            taps, or one for all; empty for other networks.
        teacher_epochs: The number of passes over the images in which a compact teacher learns; 0
            for other networks.
        heads: The features that compact networks reproduce, for each group. They are found in the
            networks of ``teacher_from`` when the training begins.
    """

    backbones: tuple[str, ...]
    image_size: ImageSize
    crop_from: ImageSize = 0
    epochs: int
    batch_size: int
    optimiser: Literal["sgd", "adam"]
    learning_rate: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["constant", "one-cycle", "plateau"] = "constant"
    validation_fraction: float = 0.2
    checkpoint: Literal["last", "best"] = "last"
    strides: tuple[tuple[int, ...], ...] = ()
    taps: tuple[tuple[str, ...], ...] = ()
    blur_sigma: float = 0.0
    combine: Combine | None = None
    distance: Distance | None = None
    score: ScoreRule | None = None
    options: dict[str, str] = {}
    damage: float = 0.0
    border_weights: bool = False
    mixed_precision: bool = False
    teacher_from: tuple[str, ...] = ()
    teacher_epochs: int = 0
    heads: tuple[tuple[Head, ...], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """The height and width at which the networks run."""
        return both_sides(self.image_size)

    @property
    def resize_to(self) -> tuple[int, int] | None:
        """The height and width to which images are resized before the crop; None without one."""
        return both_sides(self.crop_from) if self.crop_from else None

    def pair_options(self, method: Method, weights: tuple[str, ...] | None) -> PairOptions:
        """Return the options from which the method builds the pair."""
        defaults = {option.name: option.values[0] for option in method.options}
        return PairOptions(
            TeacherOptions(self.backbones, weights, self.taps, self.strides, self.heads),
            self.blur_sigma,
            self.combine,
            self.distance,
            self.score,
            {**defaults, **self.options},
        )


def paper_recipe(method: Method) -> Recipe:
    """Return a method's recipe with the paper's values."""
    fields = _read(method)
    fields.pop("backbone", None)
    return _convert(method, fields)


def load_recipe(method: Method, overrides: Mapping[str, object]) -> Recipe:
    """Return a method's recipe with its overrides for the backbone and the user's own values.

    Args:
        method: The method.
        overrides: The user's values of fields of :class:`Recipe`; None keeps the recipe's value.

    Raises:
        OptionError: A value is invalid.
    """
    given: dict[str, Any] = {key: value for key, value in overrides.items() if value is not None}
    fields = _read(method)
    by_backbone: dict[str, Any] = fields.pop("backbone", {})
    networks = tuple(given.get("backbones") or fields["backbones"])
    if is_compact(networks):
        given.setdefault("teacher_from", DEFAULT_SOURCE)
        given.setdefault("teacher_epochs", _read_file(_COMPACT_TEACHER)["epochs"])
        networks = given["teacher_from"]
    elif name := next((name for name in ("teacher_from", "teacher_epochs") if name in given), None):
        raise OptionError(
            f"`{name}` is an option of compact teachers",
            expected=f"`backbone` {', '.join(compact.NAMES)}",
            received=", ".join(networks),
        )
    if len(set(networks)) == 1:
        fields.update(by_backbone.get(networks[0], {}))
    if "teacher_from" in given:
        fields.update(damage=_COMPACT_DAMAGE, border_weights=True)
        own = dict(by_backbone.get("compact", {}))
        by_source: dict[str, Any] = own.pop("source", {})
        fields.update(own)
        if len(set(networks)) == 1:
            fields.update(by_source.get(networks[0], {}))
    given |= {key: require_size(key, given[key]) for key in ("image_size", "crop_from") if key in given}
    if "image_size" in given and "crop_from" not in given and fields.get("crop_from"):
        given["crop_from"] = _crop_of(given["image_size"], fields)
    if given.get("taps"):
        fields["strides"] = ()
    options = {**fields.get("options", {}), **given.pop("options", {})}
    fields.update(given)
    fields["options"] = _check_choices(method, options)
    recipe = _convert(method, fields)
    check_recipe(recipe)
    return recipe


def _crop_of(size: ImageSize, recipe: Mapping[str, int]) -> ImageSize:
    """Return the size from which another image size is cut, so that the crop keeps its share."""
    height, width = both_sides(size)
    unit = math.gcd(height, width)  # both sides are multiplied by the same factor
    scaled = round(recipe["crop_from"] * unit / recipe["image_size"])
    return size_of((height // unit * scaled, width // unit * scaled))


def _read(method: Method) -> dict[str, Any]:
    return _read_file(method.recipe or f"{method.name.replace('-', '_')}.toml")


def _read_file(source: Path | str) -> dict[str, Any]:
    """Read a file, or a recipe of this package by its name."""
    path = resources.files(__name__).joinpath(source) if isinstance(source, str) else source
    fields: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    return fields


def compact_teacher_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe by which a compact teacher learns, for the recipe of its students."""
    own = _read_file(_COMPACT_TEACHER)
    own.update(backbones=recipe.teacher_from, epochs=recipe.teacher_epochs)
    for name in ("image_size", "crop_from", "taps", "strides", "heads", "validation_fraction", "mixed_precision"):
        own[name] = getattr(recipe, name)
    return msgspec.convert(own, Recipe, strict=False)


def _convert(method: Method, fields: Mapping[str, object]) -> Recipe:
    try:
        return msgspec.convert(fields, Recipe, strict=False)
    except msgspec.ValidationError as error:
        raise OptionError(f"the recipe of '{method.name}' is not valid: {describe_invalid(error)}") from error


def _check_choices(method: Method, chosen: Mapping[str, str]) -> dict[str, str]:
    """Return the choices that differ from the method's defaults."""
    known = {option.name: option for option in method.options}
    for name, value in chosen.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise OptionError(
                f"the method {method.name} has no option '{name}'",
                expected=", ".join(near or known) or "no options of its own",
            )
        if value not in known[name].values:
            raise OptionError(
                f"invalid `{name}` for the method {method.name}",
                expected=", ".join(known[name].values),
                received=value,
            )
    return {name: value for name, value in chosen.items() if value != known[name].values[0]}


def check_recipe(recipe: Recipe) -> None:
    """Check that every value of a recipe is within its limits.

    Raises:
        OptionError: A value is not.
    """
    limits: list[tuple[str, float, float, float]] = [
        *(("image_size", side, *_SIDES) for side in recipe.size),
        ("epochs", recipe.epochs, 1, 100_000),
        ("batch_size", recipe.batch_size, 2, 4096),
        ("learning_rate", recipe.learning_rate, 1e-9, 100),
        ("validation_fraction", recipe.validation_fraction, 0.01, 0.9),
        ("blur_sigma", recipe.blur_sigma, 0, 64),
        ("damage", recipe.damage, 0, 1),
    ]
    if recipe.teacher_from:
        limits.append(("teacher_epochs", recipe.teacher_epochs, 1, 100_000))
    if recipe.resize_to:
        limits += [
            ("crop_from", full, side, _SIDES[1]) for full, side in zip(recipe.resize_to, recipe.size, strict=True)
        ]
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise OptionError(f"`{name}` is out of range", expected=f"{low:g} to {high:g}", received=f"{value:g}")
    if recipe.resize_to and recipe.resize_to[0] * recipe.size[1] != recipe.resize_to[1] * recipe.size[0]:
        raise OptionError(
            "`crop_from` has other proportions than `image_size`",
            expected=f"the proportions of {say_size(recipe.image_size)}",
            received=say_size(recipe.crop_from),
            fix="leave out `crop_from`: it then keeps the recipe's share of the image",
        )
