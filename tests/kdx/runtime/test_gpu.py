"""What the driver answers, and what is said where it does not start."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from kd_export.engine import flavours
from kdx.bundle.checked_files import Graph
from kdx.errors import BackendError
from kdx.runtime import gpu
from kdx.runtime.backend_table import BackendInfo, find_backend
from kdx.runtime.gpu import Gpu, gpus, why_no_gpu
from kdx.workflows import doctor
from tests.kdx.runtime.test_loading_process import in_fork

NAMES = {802: b"CUDA_ERROR_SYSTEM_NOT_READY", 999: b"CUDA_ERROR_UNKNOWN"}


@pytest.fixture
def driver(monkeypatch):
    """A driver of one card, whose functions return what the test puts into it."""
    fake = SimpleNamespace(init=0, count=0, started=0)

    def init(flags: int) -> int:
        fake.started += 1
        return fake.init

    def count(result) -> int:
        result._obj.value = 1
        return fake.count

    def name_of(code: int, result) -> int:
        result._obj.value = NAMES.get(code)
        return 0 if code in NAMES else 1

    def version(result) -> int:
        result._obj.value = 12080
        return 0

    def name(result, size: int, device) -> int:
        result.value = b"A card"
        return 0

    def attribute(result, which: int, device) -> int:
        result._obj.value = {75: 8, 76: 6}[which]
        return 0

    fake.cuInit, fake.cuDeviceGetCount, fake.cuGetErrorName = init, count, name_of
    fake.cuDriverGetVersion, fake.cuDeviceGetName, fake.cuDeviceGetAttribute = version, name, attribute
    fake.cuDeviceGet = lambda result, index: 0
    monkeypatch.setattr(gpu, "_found", [])
    monkeypatch.setattr(gpu, "_load_driver", lambda: fake)
    return fake


def test_the_cards_are_asked_for_once(driver):
    assert gpus() == gpus() == (Gpu("A card", "8.6", "12.8"),)
    assert driver.started == 1


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"init": 802}, "cuInit returned CUDA_ERROR_SYSTEM_NOT_READY (802): the fabric manager may not run"),
        ({"init": 3}, "cuInit returned error 3: this process may have been forked from one that has used CUDA"),
        ({"init": 803}, "cuInit returned error 803: the driver's libraries and its kernel module differ"),
        ({"count": 999}, "cuDeviceGetCount returned CUDA_ERROR_UNKNOWN (999): the kernel module"),
        ({"count": 1}, "cuDeviceGetCount returned error 1"),
    ],
)
def test_a_driver_that_does_not_start_is_named_and_asked_again(driver, monkeypatch, tmp_path, answers, said):
    vars(driver).update(answers)
    assert gpus() == ()
    assert why_no_gpu().startswith(f"the driver does not start: {said}")
    monkeypatch.setattr(BackendInfo, "is_installed", lambda self: True)
    (tmp_path / "model.onnx").write_bytes(b"graph")
    with pytest.raises(BackendError, match="the driver does not start"):
        find_backend("onnxruntime-cuda").open(Graph.of(tmp_path / "model.onnx"), None)
    with pytest.raises(BackendError, match="the driver does not start"):
        flavours.target_capability("tensorrt", None)
    assert any(f"cannot run here: the driver does not start: {said}" in line for line in doctor.checks())
    driver.init = driver.count = 0
    assert [each.name for each in gpus()] == ["A card"]


@pytest.mark.parametrize("missing", [{"init": 100}, {"count": 100}, None])
def test_a_machine_without_a_card_or_a_driver_has_no_error(driver, monkeypatch, missing):
    if missing is None:
        monkeypatch.setattr(gpu, "_load_driver", lambda: None)
    else:
        vars(driver).update(missing)
    assert gpus() == ()
    assert why_no_gpu() == "the driver shows none on this machine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_that_it_cannot_use_the_driver(driver, monkeypatch, tmp_path):
    monkeypatch.setattr(BackendInfo, "is_installed", lambda self: True)
    monkeypatch.setattr(BackendInfo, "_function", lambda self, path: lambda graph, threads: "opened")
    (tmp_path / "model.onnx").write_bytes(b"graph")
    graph = Graph.of(tmp_path / "model.onnx")

    def opened(name: str) -> object:
        return find_backend(name).open(graph, None)

    assert opened("onnxruntime-cuda") == "opened"
    said = in_fork(lambda: opened("onnxruntime-cuda"))
    assert said.startswith("ForkError: the driver of the GPU was started before this process was forked"), said
    assert in_fork(lambda: opened("onnxruntime-cpu")) == "returned opened"
    gpu._found.clear()
    assert in_fork(lambda: opened("onnxruntime-cuda")) == "returned opened"  # this process asked no driver
