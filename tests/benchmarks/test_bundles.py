"""The bundles that benchmarks time: what is a candidate."""

from __future__ import annotations

from benchmarks.bundles import Prepared, candidates, stpm


def test_every_backend_and_precision_of_a_bundle_is_a_candidate(tiny_run, tiny_bundle) -> None:
    prepared = Prepared(stpm(), tiny_run, tiny_bundle, {})
    found = candidates(prepared, eager=True)
    assert found[0].name == "eager"
    assert {candidate.name for candidate in found[1:]} >= {"onnxruntime-cpu fp32"}
    only = candidates(prepared, only=(("onnxruntime-cpu", "fp32"),))
    assert [candidate.arguments["precision"] for candidate in only] == ["fp32"]
