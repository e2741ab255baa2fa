"""The options of training are declared once: every place that offers them has all of them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kd_train.training.options import TrainOptions, check_limits, choices, declared
from kdx.errors import OptionError
from kdx.workflows.many.catalog import read_catalog

# A value of each option that is not its default, as TOML.
GIVEN = {
    "method": "'dskd'", "category": "'screw'", "subfolders": "true", "good_folders": "['fine']", "backbone": "'a'",
    "weights": "'random'", "epochs": "3", "image_size": "64", "crop_from": "80", "tile": "128", "batch_size": "4",
    "learning_rate": "0.5", "taps": "'layer1'", "combine": "'sum'", "score": "'max'", "blur_sigma": "1.5", "seed": "7",
    "train_fraction": "0.5", "validation_fraction": "0.25", "group_by": "'x'", "parts": "'parts.csv'",
    "odd_images": "'keep'", "channels": "3", "sixteen_bit_range": "[0, 4095]", "max_bad_images": "2", "workers": "0",
    "memory_mib": "99", "device": "'cpu'", "teacher_from": "'b'", "teacher_epochs": "4", "damage": "0.25",
    "extra_images": "['further']", "border_weights": "'on'", "precision": "'int8'", "crop": "[8, 8, 32, 32]",
    "init": "'earlier'", "mixed_precision": "true",
}  # fmt: skip
DEFAULTS = TrainOptions()


def value_of(name: str, folder: Path) -> Any:
    """Return what a catalogue with this option asks training for."""
    option = next(option for each, option, _ in declared() if each.name == name)
    path = folder / "catalog.toml"
    path.write_text(f"[products.p]\ndata = 'x'\n{option.key or name} = {GIVEN[name]}\n", encoding="utf-8")
    options = read_catalog(path)["p"].train_options()
    others = [each.name for each in fields(options) if getattr(options, each.name) != getattr(DEFAULTS, each.name)]
    assert others == [name]
    return getattr(options, name)


def test_every_key_of_a_catalogue_reaches_training(tmp_path):
    keys = [each.name for each, option, _ in declared() if option.key is not None]
    assert sorted(keys) == sorted(GIVEN)
    found = {name: value_of(name, tmp_path) for name in keys}
    assert (found["channels"], found["blur_sigma"], found["tile"]) == ("3", 1.5, 128)
    assert (found["good_folders"], found["sixteen_bit_range"]) == (("fine",), (0, 4095))
    assert found["parts"] == tmp_path / "parts.csv"
    assert found["init"] == tmp_path / "earlier"
    assert found["extra_images"] == (str(tmp_path / "further"),)


@pytest.mark.parametrize("command", ["train", "fit", "reproduce", "distil", "quantize"])
def test_a_command_offers_the_options_that_name_it(cli, command):
    import typer

    from kdx.cli.app import app

    flags = {flag for each in typer.main.get_command(app).commands[command].params for flag in each.opts}
    for each, option, _ in declared():
        flag = f"--{option.flag or each.name.replace('_', '-')}"
        offered = command in option.commands
        # These commands declare another option of that name.
        own = command in {"fit", "reproduce"} and each.name in {"category", "force"}
        assert (flag in flags) is (offered or own or (command, each.name) == ("fit", "precision")), flag


def test_limits_and_choices_are_checked_of_every_option():
    for each, option, kind in declared():
        if option.limits is not None:
            low, high = option.limits
            for value in (low - 1, high + 1):
                with pytest.raises(OptionError, match=f"`{each.name}` is out of range"):
                    check_limits(TrainOptions(**{each.name: value}))
            for value in option.limits:
                check_limits(TrainOptions(**{each.name: value}))
        if choices(kind):
            with pytest.raises(OptionError, match=f"invalid `{each.name}`"):
                check_limits(TrainOptions(**{each.name: "nonsense"}))
            for value in choices(kind):
                check_limits(TrainOptions(**{each.name: value}))


def test_an_empty_text_is_shown_as_one():
    with pytest.raises(OptionError, match="invalid `combine`") as caught:
        check_limits(TrainOptions(combine=""))
    assert (caught.value.expected, caught.value.received) == ("sum, product", "''")


def test_options_have_no_order():
    with pytest.raises(TypeError, match="positional"):
        TrainOptions("stpm")


def test_what_decides_no_result_is_not_recorded():
    assert (
        TrainOptions(workers=0, memory_mib=1, max_bad_images=3, device="cpu", resume=True, force=True).changed() == {}
    )
    assert TrainOptions(seed=3, epochs=2).changed(without=("seed",)) == {"epochs": 2}


def test_what_is_recorded_equals_what_is_read_again():
    """Otherwise a second call of ``kdx fit`` takes its own settings for others."""
    changed = TrainOptions(good_folders=("fine",), sixteen_bit_range=(0, 4095)).changed()
    assert changed == json.loads(json.dumps(changed)) == {"good_folders": ["fine"], "sixteen_bit_range": [0, 4095]}
