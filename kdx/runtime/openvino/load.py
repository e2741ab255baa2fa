"""Reading, compiling and keeping OpenVINO models; what whole graphs and parts of graphs have in common."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import openvino as ov

from kdx import __version__
from kdx.bundle.checked_files import Graph
from kdx.errors import BackendError
from kdx.runtime.openvino.blob_cache import BlobCache
from kdx.runtime.openvino.graph import reduce_channel_sums, use_unsigned_activations, with_fp32_island
from kdx.storage.cache import cache_folder
from kdx.storage.private_folder import private_cache

DEVICE = "CPU"
# A compiled model holds weights of its own, laid out for its batch size.
KEPT_BATCH_SIZES = 4
Precision = Literal["f32", "bf16"]
Mode = Literal["latency", "throughput"]


@lru_cache(maxsize=1)
def core() -> Any:
    """Return OpenVINO's core, of which a process needs one."""
    return ov.Core()


def offers_bf16() -> bool:
    """Whether this CPU computes BF16."""
    return "BF16" in core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


def require_bf16() -> None:
    """Raise ``BackendError`` where this CPU computes no BF16."""
    if not offers_bf16():
        raise BackendError("this CPU computes no BF16", expected="AVX-512 BF16 or AMX", fix="use another precision")


def configuration(
    precision: Precision, threads: int | None, mode: Mode = "latency", pinning: bool = False
) -> dict[str, Any]:
    """Return what a model is compiled with; neither precision nor pinning is left to OpenVINO.

    OpenVINO pins by itself, each model's threads to the first cores: two processes of a thread each would share one
    core and leave the next idle (19 instead of 42 frames a second, measured). Unpinned, one alone is as fast.
    """
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "f32" else "PERFORMANCE",
        "PERFORMANCE_HINT": mode.upper(),
        **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
        "ENABLE_CPU_PINNING": pinning,
    }


def read_graph(content: bytes, batch: int) -> Any:
    """Return a graph for one batch size, as it is computed here, from the ONNX file's content."""
    # As a stream: while it takes plain bytes apart, OpenVINO keeps every other thread of the program waiting.
    model = core().read_model(io.BytesIO(content))
    shape = model.input(0).partial_shape
    shape[0] = batch
    model.reshape({model.input(0): shape})
    reduce_channel_sums(model)
    use_unsigned_activations(model)
    return model


def compile_model(model: Any, config: dict[str, Any]) -> Any:
    """Compile what :func:`read_graph` returned, or a part of it."""
    if config["INFERENCE_PRECISION_HINT"] == "bf16":
        model = with_fp32_island(core(), model)
    return core().compile_model(model, DEVICE, config)


def load_compiled(
    cache: BlobCache, config: dict[str, Any], content: tuple[object, ...], model: Callable[[], Any]
) -> Any:
    """Take a compiled model from the cache, or compile it and keep it there.

    Args:
        cache: Where compiled models are kept, if anywhere.
        config: Of :func:`configuration`.
        content: What tells this model from every other.
        model: Returns the model to compile.
    """
    # "blob 2": earlier versions kept under a graph's hash what they had compiled from a file that had replaced it.
    key = ("blob 2", __version__, ov.__version__, *_cpu(), *content, sorted(config.items()))
    blob = cache.read(*key)
    if blob is not None:
        try:
            return core().import_model(io.BytesIO(blob), DEVICE, config)
        except RuntimeError:
            pass  # whole, but not for this OpenVINO
    compiled = compile_model(model(), config)
    if cache.folder is not None:
        cache.write(compiled.export_model().getvalue(), *key)
    return compiled


def blob_folder(graph: Graph) -> Path | None:
    """Return the folder where what is compiled from a graph is kept; None for nowhere.

    Of a bundle whose signature was required, one that nobody else can write to.
    """
    if graph.seal is not None:
        return private_cache("openvino")
    folder = cache_folder()
    return folder / "openvino" if folder else None


@lru_cache(maxsize=1)
def _cpu() -> tuple[str, ...]:
    found = core()
    return (found.get_property(DEVICE, "FULL_DEVICE_NAME"), *found.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))
