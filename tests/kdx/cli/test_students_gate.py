"""What the gate of INT8 students found is said wherever a bundle is looked at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_manifest
from kdx.bundle.variants import DecisionComparison, Judged

COMPARED = DecisionComparison(
    defects_are="synthetic",
    good=114,
    frames=114,
    defects=200,
    false_reject_rate=0.01,
    auroc=0.911,
    auroc_reference=0.912,
    auroc_interval=(-0.006, 0.004),
    rejected=133,
    rejected_reference=132,
    rejected_interval=(-0.02, 0.03),
    false_rejects=1,
    false_rejects_reference=1,
)
SAID = (
    "decides as well as FP32 on 114 held-out good images and 200 synthetic defects on them: image AUROC 91.1 (FP32 "
    "91.2), difference -0.1 points (95 %: -0.6 to +0.4)"
)


@pytest.fixture
def judged_bundle(students_bundle, tmp_path) -> Path:
    """A bundle with INT8 students whose gate compared decisions."""
    bundle = Path(shutil.copytree(students_bundle, tmp_path / "tile.kdx"))
    manifest = open_bundle(bundle).manifest
    judged = [Judged(runtime="onnxruntime-cpu", compared=9, flips=2, score_max=0.7, decisions=[COMPARED])]
    variant = msgspec.structs.replace(manifest.variants["int8"], judged=judged)
    write_manifest(bundle, msgspec.structs.replace(manifest, variants={**manifest.variants, "int8": variant}))
    return bundle


def test_verify_inspect_and_report_say_how_well_students_decide(judged_bundle, dataset, tmp_path, cli) -> None:
    for command in ("verify", "inspect"):
        assert SAID in " ".join(cli(command, judged_bundle).stdout.split())
    cli("report", judged_bundle, dataset, "-o", tmp_path / "page.html", "--no-latency")
    assert SAID in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_inspect_names_what_likeness_to_fp32_is(judged_bundle, cli) -> None:
    said = "onnxruntime-cpu: likeness to FP32, which is not the reference of these students: golden scores within 70%"
    assert said in cli("inspect", judged_bundle).stdout


def test_the_record_is_in_json(judged_bundle, cli) -> None:
    expected = json.loads(msgspec.json.encode(COMPARED))
    assert cli("verify", judged_bundle, "--json").json["judged"]["int8"][0]["decisions"] == [expected]
    assert cli("inspect", judged_bundle, "--json").json["manifest"]["variants"]["int8"]["judged"][0]["decisions"] == [
        expected
    ]


def test_export_says_it_in_place_of_likeness(judged_bundle) -> None:
    said = open_bundle(judged_bundle).manifest.variants["int8"].describe()
    assert f"; onnxruntime-cpu: {SAID}" in said
    assert "turned" not in said
