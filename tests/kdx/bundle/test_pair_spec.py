"""The pair's declaration: stored as plain JSON, read as one type."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from kdx.bundle.open import open_bundle
from kdx.bundle.pair_spec import (
    Combine,
    Distance,
    Join,
    MapSpec,
    PairSpec,
    ScoreRule,
    Tap,
    decode_map_rule,
    decode_pair_spec,
    encode_pair_spec,
)
from kdx.decision.answers import answer_limits

FIRST = MapSpec((Tap("layer1", weight=2.0), Tap("layer2")), Combine.SUM, 4.0)
SECOND = MapSpec((Tap("layer3", Distance.COSINE),), Combine.PRODUCT)
# embed/tests/units.cpp reads the same cases.
CASES = json.loads((Path(__file__).parents[3] / "embed/tests/pair_specs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "spec",
    [
        PairSpec((FIRST,)),
        PairSpec((FIRST, SECOND), Join.CONFIRMED, ScoreRule.SUM, trained=(Tap("layer4"),)),
    ],
    ids=["one map", "two maps"],
)
def test_a_declaration_is_decoded_as_it_was_encoded(spec) -> None:
    stored = json.loads(msgspec.json.encode(encode_pair_spec(spec)))
    assert decode_pair_spec(stored) == spec


def test_the_declaration_of_a_bundle_is_encoded_to_the_bytes_that_it_stores(tiny_bundle) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    stored = json.loads((Path(tiny_bundle) / "bundle.json").read_text(encoding="utf-8"))["pair_spec"]
    assert json.dumps(encode_pair_spec(manifest.pair)) == json.dumps(stored)
    assert [tap.name for tap in manifest.pair.taps] == [tap["name"] for tap in stored["maps"][0]["taps"]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["what"])
def test_declarations_are_read_as_by_the_c_library(case) -> None:
    rule = decode_map_rule(case["pair_spec"])
    limits = answer_limits(decode_pair_spec(case["pair_spec"]), (10, 10))
    assert (rule.value if rule else "none") == case["map_rule"]
    assert (limits.lowest_map, limits.score_is_max) == (case["lowest_map"], case["score_is_max"])


@pytest.mark.parametrize("case", [case for case in CASES if case["lowest_map"] < 0], ids=lambda case: case["what"])
def test_a_declaration_that_this_version_does_not_know_is_none(case) -> None:
    assert decode_pair_spec(case["pair_spec"]) is None


def test_entries_that_this_version_does_not_know_are_ignored() -> None:
    spec = PairSpec((FIRST,))
    assert decode_pair_spec({**encode_pair_spec(spec), "colour": "blue"}) == spec


@pytest.mark.parametrize("join", Join)
def test_the_score_comes_from_the_returned_map_alone_in_two_joins(join) -> None:
    rule = PairSpec((FIRST, SECOND), join, ScoreRule.SUM).map_rule
    assert rule is (ScoreRule.SUM if join in {Join.SINGLE, Join.SCORE_FIRST} else None)
