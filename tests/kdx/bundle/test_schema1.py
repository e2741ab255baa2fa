"""Bundles of schema 1 load and decide as they did."""

from __future__ import annotations

import json

import pytest

import kdx
from kdx.bundle.manifest import NEWEST_SCHEMA, SCHEMA
from kdx.bundle.open import open_bundle
from kdx.errors import BundleError
from kdx.runtime.backend_table import find_backend
from tests.schema1 import FIXTURES, NAMES, SCORES_WITHIN, old_bundle, recorded


@pytest.mark.parametrize("name", NAMES)
def test_an_old_bundle_decides_as_it_did(name, tmp_path):
    bundle = old_bundle(name, tmp_path)
    assert open_bundle(bundle).manifest.schema == 1
    decided = set()
    for said in recorded(name):
        if not find_backend(said.backend).offers(said.precision):
            continue
        with kdx.load(bundle, backend=said.backend, precision=said.precision) as detector:
            assert (detector.threshold, detector.review_threshold) == (said.threshold, said.review_threshold)
            for image, before in said.verdicts.items():
                verdict = detector(kdx.read_image(FIXTURES / "images" / image, detector.input))
                assert verdict.score == pytest.approx(before.score, rel=SCORES_WITHIN[said.precision])
                if said.is_clear(image):
                    assert verdict.decision.value == before.decision
                    decided.add(verdict.decision.value)
    assert decided >= {"good", "defective"}


def test_a_newer_schema_is_refused(tmp_path):
    bundle = old_bundle("stpm", tmp_path)
    manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    (bundle / "bundle.json").write_text(json.dumps({**manifest, "schema": NEWEST_SCHEMA + 1}), encoding="utf-8")
    with pytest.raises(BundleError, match="written by a newer kdx"):
        open_bundle(bundle)


def test_what_changes_an_old_bundle_writes_the_present_schema(cli, tmp_path):
    bundle = old_bundle("level", tmp_path)
    cli("roi", bundle, "--remove")
    assert open_bundle(bundle).manifest.schema == SCHEMA
