"""kdx fit tries a compact teacher beside the network from which it learns, and says which is
better."""

from __future__ import annotations

import json

import msgspec
import pytest

from kd_train.training.options import TrainOptions
from kd_train.training.run_folder import Run
from kdx.errors import WeightsError
from kdx.workflows.fit.compact_choice import compact_choice
from kdx.workflows.fit.deadline import teacher_epochs_left
from kdx.workflows.fit.request import FitRequest
from kdx.workflows.fit.screen import _failure_of, screening_outcome
from kdx.workflows.fit.trial_records import Dropped, MethodSize, Timing
from tests.conftest import invoke, write_dataset
from tests.kdx.workflows.fit.test_fit import OPTIONS, decreed
from tests.kdx.workflows.fit.test_frontier import BUDGET, row

LITE0 = "tf_efficientnet_lite0"


def request(tmp_path, methods=("stpm",), **training):
    return FitRequest(
        data=tmp_path, out=tmp_path / "out", budget_ms=BUDGET, percentile=99, methods=methods, sizes=(64, 96),
        precisions=("fp32",), threads=1, hours=None, false_reject_rate=0.1, training=TrainOptions(**training),
    )  # fmt: skip


def pairs(asked):
    return list(dict.fromkeys(candidate.pair for candidate in asked.candidates()))


# What is tried


@pytest.mark.parametrize(
    ("methods", "training", "expected"),
    [
        (("stpm",), {}, ["stpm", "stpm compact-m", f"stpm {LITE0}"]),
        (("stpm",), {"weights": "random"}, ["stpm", "stpm compact-m", f"stpm {LITE0}"]),
        (("stpm",), {"backbone": "resnet18"}, ["stpm", "stpm compact-m"]),
        (("stpm", "dual"), {"backbone": "resnet18"}, ["stpm", "dual", "stpm compact-m"]),
        (("dual",), {}, ["dual"]),  # measured with STPM alone
        (("stpm",), {"backbone": "compact-s"}, ["stpm"]),  # what the user asked for
        (("stpm",), {"taps": "layer1"}, ["stpm"]),  # the taps of the paper's network
        (("stpm",), {"weights": "mine.pth"}, ["stpm"]),
    ],
)
def test_a_compact_pair_is_tried_beside_the_network_that_it_learns_from(tmp_path, methods, training, expected):
    assert pairs(request(tmp_path, methods, **training)) == expected


def test_the_compact_pair_learns_from_the_network_that_it_is_compared_with(tmp_path):
    lite0 = [(("blocks.2", "blocks.4", "blocks.5"),), (("blocks.4", "blocks.5"),)]
    for training, source, taps in (({}, LITE0, lite0), ({"backbone": "resnet18"}, "resnet18", [(), ()])):
        asked = request(tmp_path, **training)
        compact, other = (MethodSize(*method_and_size) for method_and_size in _of(asked))
        recipes = [asked.recipe_of(candidate) for candidate in (compact, other)]
        assert (recipes[0].backbones, recipes[0].teacher_from) == (("compact-m",), (source,))
        assert (recipes[1].backbones, recipes[1].teacher_from) == ((source,), ())
        assert [recipe.taps for recipe in recipes] == taps
        assert recipes[0].strides == recipes[1].strides
    names = {candidate.name for candidate in request(tmp_path).candidates()}
    assert {"stpm-64", "stpm-64-compact-m", f"stpm-64-{LITE0}"} < names


def _of(asked):
    return [(method, 64, backbone) for method, backbone in asked.compact_and_source]


def test_missing_weights_of_the_source_are_found_by_the_screening(tmp_path):
    asked = request(tmp_path, backbone="test_resnet", weights=str(tmp_path / "missing.pth"))
    assert isinstance(_failure_of(MethodSize("stpm", 64, "compact-m"), asked), WeightsError)


# What is said


def rows(*figures):
    """Return rows of the compact pair and of its source, from image AUROC and milliseconds."""
    backbones = ("compact-m", LITE0)
    return [
        msgspec.structs.replace(row(ms, auroc), candidate=MethodSize("stpm", 128, backbone))
        for backbone, found in zip(backbones, figures, strict=True)
        for auroc, ms in found
    ]


@pytest.mark.parametrize(
    ("compact", "source", "said"),
    [
        ([(0.95, 3.0)], [(0.93, 7.0)], "compact-m is the better pair here, its image AUROC is higher"),
        ([(0.91, 3.0)], [(0.93, 7.0)], f"{LITE0} is the better pair here, its image AUROC is higher"),
        ([(0.9304, 3.0)], [(0.93, 7.0)], "compact-m is the better pair here, the image AUROCs agree"),
        ([(0.91, 3.0)], [(0.93, 9.0)], "compact-m is the better pair here, only it keeps 8 ms"),
        ([(0.91, 9.0)], [(0.93, 9.5)], "neither keeps 8 ms"),
        (
            [(0.91, 3.0), (0.94, 5.0), (0.99, 9.0)],
            [(0.93, 7.0)],
            "compact-m (stpm compact-m 128, fp32) image AUROC 94.0",
        ),
    ],
)
def test_the_choice_follows_the_table_and_gives_its_reason(tmp_path, compact, source, said):
    text = compact_choice(rows(compact, source), [], request(tmp_path))
    assert said in text
    assert "±" in text


def test_what_was_not_tried_is_named(tmp_path):
    dropped = [
        Dropped(candidate=MethodSize("stpm", size, LITE0), reason="not trained: the hours were spent", cause="hours")
        for size in (128, 64)
    ]
    text = compact_choice(rows([(0.95, 3.0)], []), dropped, request(tmp_path))
    assert text == (f"compact-m and {LITE0} were not compared: stpm {LITE0} 128: not trained: the hours were spent")
    assert compact_choice([], [], request(tmp_path, ("dual",))) == ""


# The whole road


def screened(candidate, request, material):
    way = {"backend": "onnxruntime-cpu", "precision": "fp32"}
    return screening_outcome(
        candidate, [Timing(**way, percentile=99, measured_ms=4, p50_ms=4, max_ms=4, runs=9)], BUDGET
    )


@pytest.mark.slow
def test_both_are_trained_and_compared_and_a_second_call_trains_neither(tmp_path, monkeypatch):
    monkeypatch.setattr("kdx.workflows.fit.screen._screen", screened)
    monkeypatch.setattr("kdx.workflows.fit.cpu_timing.measure_cycle_time", decreed)
    data, out = write_dataset(tmp_path / "cells"), tmp_path / "out"
    command = ("fit", data, "--budget-ms", BUDGET, "--out", out, *OPTIONS, "--sizes", 64, "--epochs", 1)
    result = invoke(*command)
    report = json.loads((out / "fit.json").read_text(encoding="utf-8"))
    assert {each["candidate"]["backbone"] for each in report["rows"]} == {"", "compact-m"}
    assert "test_resnet (stpm 64, fp32) image AUROC" in report["compact_choice"]
    assert report["compact_choice"] in " ".join(result.stdout.split())
    run = Run(out / "runs/stpm-64-compact-m")
    assert teacher_epochs_left(run.path, run.config.recipe) == 0
    compared = run.config.distilled.comparisons
    assert f"stpm compact-m 64: the teacher's features alone: {compared[0].describe()}" in report["notes"]
    monkeypatch.setattr("kdx.workflows.fit.trial.train", None)
    assert invoke(*command, "--json").json["compact_choice"] == report["compact_choice"]
    assert invoke(*command, "--hours", 0, "--json").json["rows"] == report["rows"]
