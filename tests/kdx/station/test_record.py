"""Records of verdicts: the fields of ``kdx predict --json``, and what the verdict was reached
with."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import kdx
from kdx.decision.verdict import Decision, Reason, Verdict, verdict_fields
from kdx.errors import BackendError, DataError, ImageError
from kdx.monitoring.judged_by import JudgedBy
from kdx.station.record import NotJudged, Shown, VerdictRecord, judged, not_judged
from kdx.storage.files import sha256_file
from tests.schema1 import old_bundle

BY = JudgedBy(bundle="tile.kdx", bundle_sha256="b" * 64, graph_sha256="c" * 64, backend="here", precision="fp32")
SHOWN = Shown(image="left/1.png", image_sha256="a" * 64, part_id="1", product="tile", view="left")
GOOD = Verdict(Decision.GOOD, 0.25, 0.5, np.zeros((2, 2), np.float32), p_value=0.5, held_out_images=9)


def decoded(record: VerdictRecord) -> VerdictRecord:
    return msgspec.json.decode(msgspec.json.encode(record), type=VerdictRecord)


def test_a_record_has_the_fields_of_predict_and_what_decided():
    record = judged(SHOWN, GOOD, BY)
    written = json.loads(msgspec.json.encode(record))
    assert written.items() >= verdict_fields(GOOD).items()
    assert written.items() >= msgspec.to_builtins(SHOWN).items()
    assert written["bundle_sha256"] == BY.bundle_sha256
    assert {"reason", "frame_faults", "error", "review_threshold"} & written.keys() == set()
    assert decoded(record) == record
    assert record.is_good


def test_every_record_has_an_identifier_of_its_own():
    assert len({judged(SHOWN, GOOD, BY).verdict_id for _ in range(100)}) == 100


def test_an_undecided_verdict_keeps_its_reason_and_is_not_good():
    verdict = replace(GOOD, decision=Decision.UNDECIDED, score=math.nan, reason=Reason.NOT_FINITE)
    record = judged(SHOWN, verdict, BY)
    assert (record.verdict, record.reason, record.score) == ("undecided", "not_finite", None)
    assert decoded(record) == record
    assert not record.is_good


@pytest.mark.parametrize(
    ("error", "by", "reason", "said"),
    [
        (ImageError("'1.png' is damaged", fix="replace it"), BY, None, ("unreadable", None)),
        (BackendError("the runtime failed"), BY, None, ("undecided", "backend_failed")),
        (DataError("no bundle"), None, NotJudged.NO_BUNDLE, ("undecided", "no_bundle")),
    ],
)
def test_what_was_not_judged_is_never_good(error, by, reason, said):
    record = not_judged(SHOWN, error, by, reason)
    assert (record.verdict, record.reason) == said
    assert record.error == error.as_dict()
    assert record.bundle == (None if by is None else by.bundle)
    assert decoded(record) == record
    assert not record.is_good


def test_a_record_names_the_graph_that_judged(tmp_path: Path):
    path = old_bundle("stpm", tmp_path)
    bundle = kdx.open_bundle(path)
    with kdx.load(path, backend="onnxruntime-cpu", precision="fp32") as detector:
        by = JudgedBy.of(detector, bundle)
    assert (by.bundle, by.backend, by.precision) == (path.name, "onnxruntime-cpu", "fp32")
    assert by.bundle_sha256 == sha256_file(path / "bundle.json")
    assert by.graph_sha256 == sha256_file(path / "model.onnx")
