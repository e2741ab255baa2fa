"""The optimiser and the schedule of a recipe: a resumed schedule is where the first one was."""

from __future__ import annotations

import msgspec
import pytest
import torch
from torch import nn

from kd_train.methods import find_method
from kd_train.recipes import Recipe, paper_recipe
from kd_train.training.checkpoints import EpochRecord
from kd_train.training.optimiser import make_optimiser, make_schedule

STEPS = 3


def recipe_with(**changes: object) -> Recipe:
    return msgspec.structs.replace(paper_recipe(find_method("stpm")), epochs=4, learning_rate=0.1, **changes)


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(2))]


def epochs(*losses: float) -> list[EpochRecord]:
    return [
        EpochRecord(epoch=number, train_loss=1.0, validation_loss=loss, seconds=0.0)
        for number, loss in enumerate(losses, 1)
    ]


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)])
def test_the_optimiser_is_the_recipes(name, kind) -> None:
    optimiser = make_optimiser(recipe_with(optimiser=name, weight_decay=1e-3), parameters())
    assert type(optimiser) is kind
    assert (optimiser.defaults["lr"], optimiser.defaults["weight_decay"]) == (0.1, 1e-3)


def test_a_constant_rate_has_no_schedule() -> None:
    recipe = recipe_with(schedule="constant")
    assert make_schedule(recipe, make_optimiser(recipe, parameters()), [], STEPS) is None


def test_a_resumed_one_cycle_is_where_the_first_one_was() -> None:
    recipe = recipe_with(schedule="one-cycle")
    first, second = (make_optimiser(recipe, parameters()) for _ in range(2))
    schedule = make_schedule(recipe, first, [], STEPS)
    begun = first.param_groups[0]["lr"]
    for _ in range(2 * STEPS):
        first.step()
        schedule.step()
    make_schedule(recipe, second, epochs(1.0, 1.0), STEPS)
    assert second.param_groups[0]["lr"] == first.param_groups[0]["lr"] != begun


def test_a_resumed_plateau_has_counted_the_losses() -> None:
    recipe = recipe_with(schedule="plateau")
    optimiser = make_optimiser(recipe, parameters())
    make_schedule(recipe, optimiser, epochs(*[1.0] * 12), STEPS)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.01)
