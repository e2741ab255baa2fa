"""Whether the kernels are worth having: timed on a CUDA device beside the tail in the graph."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_export.graph import FusedDetector, PairSpec
from kd_export.graph.full_precision import without_tf32
from kd_export.graph.tail import Shape, Tail
from kdx.errors import BackendError, GateError, OptionError
from kernels.grouped import GroupedPair

Run = Callable[[], object]

# What `--tail fused` would have to reach end to end to be offered.
REQUIRED_SPEEDUP = 1.5


@without_tf32()
def time_tail(spec: PairSpec, tap_shapes: list[Shape], size: tuple[int, int], batch: int) -> dict[str, Any]:
    """Time everything after the taps, on random FP16 features in channels_last.

    Args:
        spec: The pair's declaration.
        tap_shapes: Channels, height and width of each tap.
        size: Height and width of the map.
        batch: Images at once.

    Returns:
        ``times``: ``median_us``, ``p10_us`` and ``p90_us`` of ``eager``, ``compiled`` and
        ``fused``, and of each as a replayed CUDA graph (``... graph``), which is what counts at
        batch 1. ``speedup`` of ``fused graph`` over the faster other graph; ``launches`` of the
        fused tail; ``max_difference``, relative, of map and score to the tail in the graph;
        ``device``.

    Raises:
        BackendError: There is no CUDA device.
    """
    device = require_cuda()  # before Triton is imported, which may not be there
    from kernels.fused_tail import FusedTail

    generator = torch.Generator().manual_seed(0)
    features = [_random_features(batch, shape, generator, device) for shape in tap_shapes]
    tail, fused = Tail(spec, tap_shapes, size).to(device).eval(), FusedTail(spec, tap_shapes, size).to(device)
    compiled = torch.compile(tail)
    with torch.inference_mode():
        difference = _difference(tail(features), fused(features))
        runs: dict[str, Run] = {
            "eager": lambda: tail(features),
            "compiled": lambda: compiled(features),
            "fused": lambda: fused(features),
        }
        times = time_runs(runs | {f"{name} graph": captured(run) for name, run in runs.items()})
    others = min(times[f"{name} graph"]["median_us"] for name in ("eager", "compiled"))
    return {
        "device": torch.cuda.get_device_name(device),
        "batch": batch,
        "times": times,
        "speedup": others / times["fused graph"]["median_us"],
        "launches": len(fused.launches(features)[0]),
        "max_difference": difference,
    }


@without_tf32()
def time_detector(detector: FusedDetector, images: NDArray[np.uint8]) -> dict[str, Any]:
    """Time FP16 networks and tail, from normalised images on the device to map and score.

    Args:
        detector: Its weights are read, not changed.
        images: Real images ``(N, H, W, C)``, one batch.

    Returns:
        As :func:`time_tail`, of CUDA graphs of ``in-graph tail``, ``compiled tail``, ``fused
        tail``, and, where teacher and student are of one structure, ``grouped`` (with the in-graph
        tail) and ``grouped, fused tail``. ``speedup`` is that of ``fused tail`` over the faster of
        the first two, ``is_fast_enough`` whether it reaches ``REQUIRED_SPEEDUP``,
        ``grouped_speedup`` that of ``grouped`` over ``in-graph tail``, or None.

    Raises:
        BackendError: There is no CUDA device.
    """
    device = require_cuda()  # before Triton is imported, which may not be there
    from kernels.fused_tail import FusedTail

    with torch.inference_mode():
        image = detector.preprocess(torch.from_numpy(images))
        shapes: list[Shape] = [(t.shape[1], t.shape[2], t.shape[3]) for t, _ in detector.pair(image[:1])]
        grouped_pair = _grouped(detector.pair, image[:1])
        pair = _half(detector.pair, device)
        x = image.to(device).half().contiguous(memory_format=torch.channels_last)
        tail = Tail(detector.spec, shapes, detector.size).to(device).eval()
        fused = FusedTail(detector.spec, shapes, detector.size).to(device)
        compiled = torch.compile(tail)
        runs: dict[str, Run] = {
            "in-graph tail": lambda: tail(pair(x)),
            "compiled tail": lambda: compiled(pair(x)),
            "fused tail": lambda: fused(pair(x)),
        }
        if grouped_pair is not None:
            grouped = _half(grouped_pair, device)
            runs["grouped"] = lambda: tail(grouped(x))
            runs["grouped, fused tail"] = lambda: fused(grouped(x))
        difference = _difference(tail(pair(x)), fused(pair(x)))
        times = time_runs({name: captured(run) for name, run in runs.items()})
    median = {name: entry["median_us"] for name, entry in times.items()}
    speedup = min(median["in-graph tail"], median["compiled tail"]) / median["fused tail"]
    return {
        "device": torch.cuda.get_device_name(device),
        "batch": len(images),
        "times": times,
        "speedup": speedup,
        "is_fast_enough": speedup >= REQUIRED_SPEEDUP,
        "grouped_speedup": median["in-graph tail"] / median["grouped"] if "grouped" in median else None,
        "max_difference": difference,
    }


def require_cuda() -> torch.device:
    """Return the current CUDA device.

    Raises:
        BackendError: There is none, or Triton is missing or interprets its kernels.
    """
    if not torch.cuda.is_available():
        raise BackendError(
            "the kernels are timed on a CUDA device, and there is none here",
            expected="torch.cuda.is_available()",
            received=f"torch {torch.__version__}",
            fix="run this on a machine with an NVIDIA GPU and a CUDA build of torch, which brings Triton",
        )
    try:
        import triton
    except ImportError as error:
        raise BackendError("Triton is not installed", fix="pip install triton") from error
    if triton.knobs.runtime.interpret:
        raise BackendError("TRITON_INTERPRET is set: kernels would be interpreted, not timed", fix="unset it")
    return torch.device("cuda", torch.cuda.current_device())


def captured(run: Run, warm_up: int = 3) -> Run:
    """Return the replay of a CUDA graph of what ``run`` launches; inputs and outputs stay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):  # compiles, and chooses cuDNN's algorithms
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()  # the graph's memory is freed with its outputs

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def time_runs(runs: dict[str, Run], rounds: int = 50, repeats: int = 20) -> dict[str, dict[str, float]]:
    """Time several things in turn, so that a clock that drifts drifts for all of them.

    Returns:
        Of each the median, 10 % and 90 % quantile, in µs, over rounds of the mean of ``repeats``
        runs between two CUDA events.
    """
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(3):
            run()
    for _ in range(rounds):
        for name, run in runs.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(repeats):
                run()
            end.record()
            end.synchronize()
            found[name].append(start.elapsed_time(end) * 1000 / repeats)
    return {
        name: {
            "median_us": statistics.median(times),
            "p10_us": statistics.quantiles(times, n=10)[0],
            "p90_us": statistics.quantiles(times, n=10)[-1],
        }
        for name, times in found.items()
    }


def _random_features(
    batch: int, shape: Shape, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    teacher = torch.randn(batch, *shape, generator=generator).relu()
    student = teacher + 0.1 * torch.randn(batch, *shape, generator=generator)
    first, second = (
        features.to(device).half().contiguous(memory_format=torch.channels_last) for features in (teacher, student)
    )
    return first, second


def _difference(expected: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor]) -> float:
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, found, strict=True))


def _half(network: nn.Module, device: torch.device) -> nn.Module:
    half: nn.Module = copy.deepcopy(network).to(device).half().eval()
    half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return half


def _grouped(pair: nn.Module, example: Tensor) -> nn.Module | None:
    """Return teacher and student as one network, or None where their architectures differ."""
    networks = getattr(getattr(pair, "teacher", None), "networks", None)
    student = getattr(pair, "student", None)
    if not isinstance(networks, nn.ModuleList) or len(networks) != 1 or not isinstance(student, nn.Module):
        return None
    try:
        return GroupedPair(networks[0], student, example)
    except (GateError, OptionError):
        return None
