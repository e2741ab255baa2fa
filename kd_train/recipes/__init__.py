"""The papers' hyper-parameters as data: one TOML per method, with overrides for backbones that need others."""

from __future__ import annotations

import sys
from importlib import resources
from typing import Any, Literal

import msgspec

from kdx.errors import OptionError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a pair is trained.

    Attributes:
        image_size: Side of the square at which the networks run, in pixels.
        epochs: Passes over the training images.
        batch_size: Images a step.
        optimiser: ``sgd`` or ``adam``.
        learning_rate: Constant, or the peak of the schedule.
        momentum: Of SGD.
        betas: Of Adam.
        weight_decay: L2 penalty.
        schedule: ``constant``, or ``one-cycle`` (PyTorch's: warm-up over the first 30 % of the steps, cosine decay to
            zero; momentum, or the first beta, goes from 0.95 to 0.85 and back meanwhile).
        validation_fraction: Share of the good images held out, for the validation loss and for calibration.
        checkpoint: Which checkpoint is the result: ``last`` or ``best`` (lowest validation loss).
        strides: Strides of the default taps.
        taps: Names of the taps; empty for the backbone's features at ``strides``.
        blur_sigma: Standard deviation of the map's Gaussian blur, in map pixels.
    """

    image_size: int
    epochs: int
    batch_size: int
    optimiser: Literal["sgd", "adam"]
    learning_rate: float
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule: Literal["constant", "one-cycle"] = "constant"
    validation_fraction: float = 0.2
    checkpoint: Literal["last", "best"] = "last"
    strides: tuple[int, ...] = ()
    taps: tuple[str, ...] = ()
    blur_sigma: float = 0.0


def load_recipe(method: str, backbone: str, **overrides: object) -> Recipe:
    """Return a method's recipe with its overrides for a backbone and the user's own.

    Args:
        method: The method's name; its file is ``recipes/METHOD.toml``.
        backbone: The teacher's timm name.
        **overrides: Fields of :class:`Recipe`; None leaves the recipe's value.

    Raises:
        OptionError: A value is not possible.
    """
    text = resources.files(__name__).joinpath(f"{method}.toml").read_text(encoding="utf-8")
    fields: dict[str, Any] = tomllib.loads(text)
    backbones: dict[str, Any] = fields.pop("backbone", {})
    fields.update(backbones.get(backbone, {}))
    given = {key: value for key, value in overrides.items() if value is not None}
    if given.get("taps"):
        fields["strides"] = ()
    fields.update(given)
    try:
        recipe = msgspec.convert(fields, Recipe, strict=False)
    except msgspec.ValidationError as error:
        raise OptionError(f"the recipe of '{method}' is not valid: {error}") from error
    _require_possible(recipe)
    return recipe


def _require_possible(recipe: Recipe) -> None:
    limits: list[tuple[str, float, float, float]] = [
        ("image_size", recipe.image_size, 32, 4096),
        ("epochs", recipe.epochs, 1, 100_000),
        ("batch_size", recipe.batch_size, 2, 4096),
        ("learning_rate", recipe.learning_rate, 1e-9, 100),
        ("validation_fraction", recipe.validation_fraction, 0.01, 0.9),
        ("blur_sigma", recipe.blur_sigma, 0, 64),
    ]
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise OptionError(f"{name} is out of range", expected=f"{low:g} to {high:g}", received=f"{value:g}")
