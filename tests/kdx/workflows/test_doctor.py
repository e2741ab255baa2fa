"""What doctor says of machines that differ from the one that runs the tests."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from kd_export.engine import flavours
from kdx.errors import BackendError
from kdx.runtime import gpu
from kdx.runtime.gpu import Gpu
from kdx.workflows import doctor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[3]
CARD = Gpu(name="RTX A2000", compute_capability="8.6", driver="13.0")


@pytest.fixture
def machine(monkeypatch):
    """Return what replaces packages of this machine: by a version, or None for a missing one."""
    real_spec, real_version = doctor.util.find_spec, doctor.version

    def put(**packages: str | None) -> None:
        def version(package: str) -> str:
            name = package.replace("-", "_")
            if packages.get(name, "") is None:
                raise PackageNotFoundError(package)
            return packages.get(name) or real_version(package)

        def find_spec(module: str, *rest: object) -> object:
            if module in packages:
                return None if packages[module] is None else object()
            return real_spec(module, *rest)

        monkeypatch.setattr(doctor, "version", version)
        monkeypatch.setattr(doctor.util, "find_spec", find_spec)

    return put


def test_every_package_of_an_extra_is_listed():
    """So that nobody learns of one where a command refuses. Two are listed by their modules."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    of_checkouts = {"kernels", "embed", "peers", "test", "docs", "dev"}
    named = {
        re.match(r"[\w-]+", each)[0]
        for extra, packages in extras.items()
        if extra not in of_checkouts
        for each in packages
        if not each.startswith("kdx[")
    }
    listed = {part["package"] for part in doctor.packages()}
    assert named - listed == {"onnxruntime-gpu", "tensorrt-cu13"}
    assert {part["install"].removeprefix("kdx[").rstrip("]") for part in doctor.packages()} <= extras.keys()


def test_two_packages_of_onnx_runtime_overwrite_each_other(machine):
    machine(onnxruntime="1.23.0", onnxruntime_gpu="1.23.0")
    assert any("overwrite each other: pip uninstall both" in line for line in doctor.checks())


@pytest.mark.parametrize("package", ["onnxruntime", "torch"])
def test_a_package_that_cannot_be_loaded_is_named_with_the_reason(machine, monkeypatch, package):
    machine(**{package: "1.0", "onnxruntime_gpu": None})
    monkeypatch.setitem(sys.modules, package, None)
    lines = [line for line in doctor.checks() if line.startswith(f"{package} is installed but cannot be loaded: ")]
    assert len(lines) == 1


def test_it_says_where_training_runs(machine, monkeypatch):
    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda index: f"card {index}")
    monkeypatch.setitem(sys.modules, "torch", torch)
    machine(torch="2.9")
    assert "PyTorch trains on CUDA: card 0" in doctor.checks()
    torch.cuda.is_available = lambda: False
    assert "PyTorch finds no CUDA device: training runs on the CPU" in doctor.checks()
    machine(torch=None)
    assert not any("PyTorch" in line for line in doctor.checks())


def test_it_says_which_engines_can_be_built(monkeypatch):
    monkeypatch.setattr(flavours, "load_flavour", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(flavours, "installed_version", lambda name: "10.1")

    def engines_on(*cards: Gpu) -> list[str]:
        for module in (gpu, flavours):
            monkeypatch.setattr(module, "gpus", lambda: cards)
        return doctor.checks()[-3:]

    card, tensorrt, rtx = engines_on(CARD)
    assert card == "RTX A2000, compute capability 8.6, driver for CUDA 13.0"
    for line, flavour in ((tensorrt, "tensorrt"), (rtx, "rtx")):
        assert line.endswith(f"kdx build-engine BUNDLE [--fp16 | --int8] --flavour {flavour} (compute capability 8.6)")

    nothing, tensorrt, rtx = engines_on()
    assert nothing.startswith("no NVIDIA GPU is seen")
    assert tensorrt.startswith("TensorRT can build no engine here: ")
    assert "--flavour rtx --compute-capability X.Y, one of " in rtx


def test_it_says_what_an_engine_lacks(monkeypatch):
    def missing(name: str) -> None:
        raise BackendError(f"{name} is not installed", fix="pip install it")

    monkeypatch.setattr(flavours, "load_flavour", missing)
    assert doctor.checks()[-1] == "TensorRT for RTX can build no engine here: rtx is not installed; pip install it"
