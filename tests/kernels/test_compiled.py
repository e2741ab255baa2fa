"""Every launch of every method compiled for GPUs that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kd_export.graph import Combine, Distance, Join, MapSpec, PairSpec, ScoreRule, Tap

pytest.importorskip("triton", reason="triton is not installed: pip install triton")

from kernels.compile import CAPABILITIES, compile_launch
from kernels.fused_tail import FusedTail
from kernels.launch import is_interpreted

# What a program may have on any of them without asking for more.
SHARED_MEMORY = 48 * 1024
RESNET18 = [(64, 64, 64), (128, 32, 32), (256, 16, 16)]


def declare(combine: Combine, sigma: float, count: int, distance: Distance = Distance.HALF_SQUARED_L2) -> MapSpec:
    return MapSpec(tuple(Tap(str(index), distance) for index in range(count)), combine, sigma)


def spec_of(name: str) -> tuple[PairSpec, list[tuple[int, int, int]]]:
    two = (declare(Combine.SUM, 4.0, 1), declare(Combine.PRODUCT, 0.0, 1, Distance.COSINE))
    return {
        "product": (PairSpec((declare(Combine.PRODUCT, 0.0, 3),)), RESNET18),
        "cosine sum": (PairSpec((declare(Combine.SUM, 0.0, 3, Distance.COSINE),)), RESNET18),
        "wide": (PairSpec((declare(Combine.PRODUCT, 9.0, 2),)), [(512, 32, 32), (1024, 16, 16)]),
        "confirmed": (PairSpec(two, Join.CONFIRMED, ScoreRule.SUM), RESNET18[1:]),
        "score both": (PairSpec((two[1], two[1]), Join.SCORE_BOTH), RESNET18[:2]),
    }[name]


# All of them for what has every kernel, with a blur and without. The oldest and the newest for
# three taps in one map. The rest adds variants.
CASES = [("confirmed", capability) for capability in CAPABILITIES]
CASES += [("product", capability) for capability in (CAPABILITIES[0], CAPABILITIES[-1])]
CASES += [(name, 75) for name in ("cosine sum", "wide", "score both")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> str:
    """Triton's cache: what two cases share is compiled once, and nothing from another day is taken
    for compiled."""
    return str(tmp_path_factory.mktemp("triton"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "capability"), CASES)
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION:UserWarning")
def test_kernels_compile(name, capability, cache, monkeypatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", cache)
    spec, shapes = spec_of(name)
    features = [(torch.zeros(1, *shape).half(), torch.zeros(1, *shape).half()) for shape in shapes]
    launches, *_ = FusedTail(spec, shapes, (256, 256)).launches(features)
    assert not any(is_interpreted(launch.kernel) for launch in launches)
    for launch in launches:
        compiled = compile_launch(launch, capability)
        ptx = compiled.asm["ptx"]
        assert f".target sm_{capability}" in ptx
        assert "tf32" not in ptx  # the tail is FP32
        assert len(compiled.asm["cubin"]) > 0
        assert compiled.metadata.shared <= SHARED_MEMORY
        assert ".local" not in ptx


def test_without_a_gpu_the_kernels_say_so() -> None:
    from kdx.errors import BackendError

    spec, shapes = spec_of("product")
    features = [(torch.zeros(1, *shape), torch.zeros(1, *shape)) for shape in shapes]
    with pytest.raises(BackendError, match="CUDA device"):
        FusedTail(spec, shapes, (256, 256))(features)


def test_nothing_installed_needs_the_kernels() -> None:
    root = Path(__file__).parents[2]
    files = [path for room in ("kdx", "kd_train", "kd_export") for path in (root / room).rglob("*.py")]
    assert files
    assert not [
        path
        for path in files
        if "import kernels" in path.read_text(encoding="utf-8") or "from kernels" in path.read_text(encoding="utf-8")
    ]
