"""The differences between a reproduction and its paper: data, teacher, settings, and means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kd_train.methods import find_method
from kd_train.recipes import Recipe, paper_recipe
from kd_train.reproduction.choice import Choice, MethodVariant
from kd_train.reproduction.papers import EVERY, MethodFacts
from kd_train.reproduction.result_folder import JobResult
from kd_train.reproduction.runs import Reproduction

# Fields of the recipe that are compared separately.
_TEACHER_AND_TAPS = ("backbones", "taps", "strides")


def differences(made: Reproduction) -> tuple[str, ...]:
    """Return a text for each difference from the paper."""
    return tuple(dict.fromkeys([*_of_data(made), *_of_training(made), *_of_means(made)]))


def unknowns(made: Reproduction) -> tuple[str, ...]:
    """Return a text for each setting that the paper does not give, with the value used here."""
    facts = made.choice.facts
    found = []
    for name in facts.silent:
        recipes = [result.recipe for result in made.results]
        values = dict.fromkeys(_taps(r) if name == "taps" else _text(getattr(r, name)) for r in recipes)
        found.append(f"{name.replace('_', ' ')}; here {' or '.join(values)}")
    return (*found, *facts.unknown)


def expected_recipe(choice: Choice, variant: MethodVariant) -> Recipe:
    """Return the recipe that the paper prints for a variant on its data set."""
    settings = dict(variant.settings)
    settings.pop("train_fraction", None)  # not a field of a recipe
    changes: dict[str, Any] = {**choice.facts.printed, **choice.facts.on.get(choice.data, {})}
    changes["backbones"] = tuple(settings.pop("backbone", choice.facts.backbone).split(","))
    if taps := settings.pop("taps", None):
        changes.update(taps=tuple(tuple(group.split(",")) for group in taps.split("/")), strides=())
    changes["options"] = settings.pop("method_options", {})
    paper = msgspec.to_builtins(paper_recipe(find_method(choice.method)))
    return msgspec.convert({**paper, **changes, **settings}, Recipe)


def means(made: Reproduction, variant: MethodVariant) -> Mapping[str, tuple[tuple[str, ...], bool]]:
    """Return the categories of each group that the variant's tables print a mean of.

    Returns:
        For each group, those of its categories that have results, and whether these are all. A
        recognised data set whose categories have other names in the tables counts as one group;
        other data belong to no group.
    """
    choice, data = made.choice, made.choice.data_set
    groups = {
        group
        for column in variant.columns
        for row in column.table.rows()
        if (group := column.table.row_group(row)) is not None
    }
    if not groups and data.categories != (EVERY,):
        groups = {EVERY}
    results = [result for result in made.results if result.variant == variant.slug]
    at_hand = tuple(c for c in made.categories if any(result.category == c for result in results))
    is_it = bool(results) and all(result.dataset == choice.data for result in results)
    found = {}
    for group in sorted(groups):
        members = data.members(group)
        here = tuple(c for c in at_hand if c in members)
        if is_it and not any(c in data.categories for c in at_hand):
            here = at_hand
        found[group] = (here, is_it and len(here) == len(members))
    return found


def _of_means(made: Reproduction) -> Iterable[str]:
    for variant in made.choice.variants:
        for group, (here, is_complete) in means(made, variant).items():
            members = made.choice.data_set.members(group)
            if here and members and not is_complete:
                what = "categories" if group == EVERY else group
                count = f"{len(here)} of {len(members)} {what}"
                yield f"the mean is over {count}" + (f": {', '.join(here)}" if len(here) < len(members) else "")


def _of_training(made: Reproduction) -> Iterable[str]:
    """Return the differences in training, with the columns if they do not concern all."""
    variants = made.choice.variants
    found: dict[str, list[str]] = {}
    for variant in variants:
        expected = expected_recipe(made.choice, variant)
        results = [result for result in made.results if result.variant == variant.slug]
        lines = dict.fromkeys(line for result in results for line in _of_run(result, expected, made.choice.facts))
        for line in lines:
            found.setdefault(line, []).append(variant.name)
    for line, names in found.items():
        yield line if len(names) == len(variants) else f"{line} ({', '.join(filter(None, names))})"


def _of_run(result: JobResult, expected: Recipe, facts: MethodFacts) -> Iterable[str]:
    recipe = result.recipe
    if not _same_teacher(recipe, expected):
        yield f"the teacher: {' and '.join(recipe.backbones)}; the paper's {' and '.join(expected.backbones)}"
    if not all(source.startswith(("hub ", "package ")) for source in result.weights.split(" and ")):
        yield f"the teacher's weights: {result.weights}; the paper's {facts.weights}"
    if (recipe.taps, recipe.strides) != (expected.taps, expected.strides) and "taps" not in facts.silent:
        yield f"the taps: {_taps(recipe)}; the paper's {_taps(expected)}"
    ours, theirs = msgspec.structs.asdict(recipe), msgspec.structs.asdict(expected)
    for name, value in ours.items():
        if name not in (*_TEACHER_AND_TAPS, "heads", *facts.silent) and value != theirs[name]:
            yield f"{name.replace('_', ' ')}: {_text(value)}; the paper's {_text(theirs[name])}"


def _same_teacher(recipe: Recipe, expected: Recipe) -> bool:
    """Return whether the networks are the same; a tag of weights counts if the paper's is known."""

    def same(name: str, wanted: str) -> bool:
        return name == wanted if "." in wanted else name.partition(".")[0] == wanted

    groups = max(len(recipe.backbones), len(expected.backbones))
    pairs = zip(_per_group(recipe.backbones, groups), _per_group(expected.backbones, groups), strict=True)
    return all(same(name, wanted) for name, wanted in pairs)


def _per_group(backbones: tuple[str, ...], groups: int) -> tuple[str, ...]:
    return backbones * groups if len(backbones) == 1 else backbones


def _of_data(made: Reproduction) -> Iterable[str]:
    choice = made.choice
    sets = {result.dataset for result in made.results}
    if None in sets:
        yield f"the data: not recognised as {choice.data_set.title} as published"
    elif sets != {choice.data}:
        yield f"the data: {', '.join(sorted(filter(None, sets)))}; the paper's {choice.data_set.title}"
    if not choice.tables:
        yield f"the paper prints no figures on {choice.data_set.title}"
    for result in made.results:
        wrong = _wrong_counts(choice, result) if result.dataset in (None, choice.data) else {}
        if wrong:
            text = ", ".join(f"{ours} {name.replace('_', ' ')} (published: {n})" for name, (ours, n) in wrong.items())
            yield f"the images of {result.category}: {text}"
        if result.bad_images:
            yield f"the images of {result.category}: {result.bad_images} could not be used"


def _wrong_counts(choice: Choice, result: JobResult) -> dict[str, tuple[int, int]]:
    published = choice.data_set.published.get(result.category)
    if published is None:
        return {}
    found = result.images
    ours = {
        **found,
        "test": found["test_good"] + found["test_defective"],
        "good": found["train"] + found["test_good"],
    }
    counts = msgspec.structs.asdict(published)
    return {name: (ours[name], n) for name, n in counts.items() if n is not None and n != ours[name]}


def _taps(recipe: Recipe) -> str:
    if recipe.taps:
        return "/".join(",".join(group) for group in recipe.taps)
    return "strides " + "/".join(",".join(map(str, group)) for group in recipe.strides)


def _text(value: object) -> str:
    if value is None:
        return "as the method declares"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {choice}" for name, choice in value.items()) or "as the method declares"
    if isinstance(value, tuple):
        return ", ".join(_text(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(getattr(value, "value", value))
