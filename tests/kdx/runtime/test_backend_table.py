"""Which precisions a backend takes: those of a bundle's engines, where it runs engines."""

from __future__ import annotations

import msgspec
import pytest

from kdx.runtime import backend_table
from kdx.runtime.backend_table import find_backend
from kdx.runtime.gpu import Gpu
from tests.engines import MACHINE, RTX, add_engine, make_record

HELD = ["fp32", "fp16", "int8"]


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle with engines for two cards, of which the older one is here."""
    add_engine(tmp_path, "fp16", make_record())
    add_engine(tmp_path, "fp32", make_record(RTX, precision="fp32"))
    newer = msgspec.structs.replace(MACHINE, compute_capability="8.9")
    add_engine(tmp_path, "int8", make_record(newer, precision="int8"))
    monkeypatch.setattr(backend_table, "gpus", lambda: (Gpu(MACHINE.gpu, "8.6", "13.0"),))
    return tmp_path


def test_engines_run_in_the_precisions_that_were_built_for_a_gpu_here(bundle, monkeypatch) -> None:
    backend = find_backend("tensorrt")
    assert [each for each in HELD if backend.offers(each, bundle)] == ["fp16"]
    assert [each for each in HELD if find_backend("tensorrt-rtx").offers(each, bundle)] == ["fp32"]
    assert all(backend.offers(each) for each in HELD)
    assert find_backend("onnxruntime-cpu").offers("int8", bundle), "it runs graphs"
    assert backend.choose_precision(HELD, bundle) == "fp16"
    monkeypatch.setattr(backend_table, "gpus", lambda: (Gpu(MACHINE.gpu, "8.9", "13.0"),))
    assert backend.choose_precision(HELD, bundle) == "int8"
    assert backend.choose_precision(["fp32", "fp16"], bundle) == "fp16", "int8 has no threshold there"


def test_without_engines_the_preferred_precision_is_asked_for(tmp_path) -> None:
    assert find_backend("tensorrt").choose_precision(HELD, tmp_path) == "int8"
    assert find_backend("tensorrt").choose_precision(["fp32"], tmp_path) == "fp32"
