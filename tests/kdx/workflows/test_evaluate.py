"""Evaluating a run or a bundle on a folder: figures, and remarks on what makes them doubtful."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from kd_train.evaluation.evaluate import Evaluation
from kdx.verification.backend_choice import other_precisions
from kdx.workflows.evaluate import EvaluationRequest, evaluate_folder


def kinds(result: Evaluation) -> set[str]:
    return {each.kind for each in result.remarks}


@pytest.mark.parametrize("of", ["tiny_run", "tiny_bundle"])
def test_images_that_were_trained_on_are_noticed_in_runs_and_bundles(of, request, dataset_copy):
    detector = request.getfixturevalue(of)
    clean, category = evaluate_folder(detector, dataset_copy, EvaluationRequest())
    assert category is None
    assert (clean.good, clean.defective) == (4, 4)
    shutil.copy(dataset_copy / "train/good/000.png", dataset_copy / "test/good/copy.png")
    seen, _ = evaluate_folder(detector, dataset_copy, EvaluationRequest())
    assert seen.good == 5
    assert len(kinds(seen) - kinds(clean)) >= 1


@pytest.mark.parametrize(
    ("precisions", "measured", "others"),
    [
        (["fp32"], "fp32", []),
        (["fp32", "fp16"], "fp32", []),
        (["fp32", "int8"], "fp32", ["int8"]),
        (["fp32", "bf16", "int8"], "int8", ["fp32", "bf16"]),
    ],
)
def test_precisions_that_may_decide_and_were_not_measured_are_named(precisions, measured, others) -> None:
    bundle = SimpleNamespace(manifest=SimpleNamespace(precisions=precisions))
    assert [name for each in other_precisions(bundle, measured) for name in each.first] == others
