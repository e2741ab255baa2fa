"""A certificate speaks of what was compared, and names the rest."""

from __future__ import annotations

import pytest

from kdx.bundle.open import open_bundle
from kdx.runtime.backend_table import BackendInfo, find_backend
from kdx.verification.certificate import verify, without


@pytest.fixture
def no_int8(monkeypatch) -> None:
    """A machine on which nothing runs INT8."""
    offers = BackendInfo.offers
    monkeypatch.setattr(
        BackendInfo, "offers", lambda self, precision, *of: precision != "int8" and offers(self, precision, *of)
    )


@pytest.mark.usefixtures("no_int8")
def test_a_precision_that_nothing_compared_is_named_and_not_vouched_for(students_bundle, cli):
    certificate = verify(open_bundle(students_bundle), [find_backend("onnxruntime-cpu")])
    assert certificate.not_compared == ["int8"]
    assert set(certificate.graph_sha256) == set(certificate.tolerances) == set(certificate.references) == {"fp32"}
    assert "int8" not in certificate.judged
    assert certificate.passed
    assert without(certificate, ["int8"]).not_compared == []
    printed = cli("verify", students_bundle, "--backend", "onnxruntime-cpu").stdout
    assert "not compared, because no backend here runs them: int8" in printed
    assert "allowed in int8" not in printed


def test_what_was_compared_is_all_there(students_bundle):
    certificate = verify(open_bundle(students_bundle), [find_backend("onnxruntime-cpu")])
    assert certificate.not_compared == []
    assert set(certificate.graph_sha256) == {"fp32", "int8"}
