"""The optimiser and the learning-rate schedule of a recipe."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeAlias

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from kd_train.recipes import Recipe
from kd_train.training.checkpoints import EpochRecord

Schedule: TypeAlias = OneCycleLR | ReduceLROnPlateau


def make_optimiser(recipe: Recipe, parameters: list[nn.Parameter]) -> Optimizer:
    """Return a recipe's optimiser of some parameters."""
    if recipe.optimiser == "sgd":
        return SGD(parameters, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return Adam(parameters, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay)


def make_schedule(recipe: Recipe, optimiser: Optimizer, history: Sequence[EpochRecord], steps: int) -> Schedule | None:
    """Return a recipe's schedule after the epochs that were trained; None for a constant rate.

    Args:
        recipe: The recipe.
        optimiser: The optimiser whose learning rate is set.
        history: The epochs so far.
        steps: The number of steps in an epoch.
    """
    if recipe.schedule == "constant":
        return None
    if recipe.schedule == "plateau":
        plateau = ReduceLROnPlateau(optimiser)
        for record in history:
            plateau.step(record.validation_loss)
        return plateau
    one_cycle = OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.epochs * steps + 1)
    with warnings.catch_warnings():
        # PyTorch warns of steps of the schedule without steps of the optimiser, which came before
        # the interruption.
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(len(history) * steps):
            one_cycle.step()
    return one_cycle
