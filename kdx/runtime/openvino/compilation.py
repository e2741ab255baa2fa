"""Reads, compiles and caches OpenVINO models: whole graphs and parts of graphs alike."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from kdx import __version__
from kdx.bundle.checked_files import Graph
from kdx.errors import BackendError
from kdx.runtime.loading_process import LoadingProcess
from kdx.runtime.openvino.blob_cache import BlobCache
from kdx.runtime.openvino.graph import reduce_channel_sums, use_unsigned_activations, with_fp32_island
from kdx.storage.cache import cache_folder
from kdx.storage.private_folder import private_cache

DEVICE = "CPU"
# A small number, because each compiled model holds its own weights in the layout for its batch
# size.
KEPT_BATCH_SIZES = 4
InferencePrecision = Literal["f32", "bf16"]
Mode = Literal["latency", "throughput"]


def core() -> Any:
    """Return OpenVINO's core; a process needs only one.

    Raises:
        ForkError: The process was forked after OpenVINO was used: whatever it compiles or runs may
            wait for ever for threads that it does not have.
    """
    made, process = _core()
    process.require_current("OpenVINO was used")
    return made


@lru_cache(maxsize=1)
def _core() -> tuple[Any, LoadingProcess]:
    return ov.Core(), LoadingProcess()


def offers_bf16() -> bool:
    """Whether this CPU supports BF16; raises ``BackendError`` if OpenVINO cannot tell."""
    used = core()
    try:
        return "BF16" in used.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    except Exception as error:  # OpenVINO's exceptions have no common base but Exception
        raise BackendError(
            f"OpenVINO cannot tell what this CPU computes: {error}", fix='reinstall it: pip install "kdx[openvino]"'
        ) from error


def require_bf16() -> None:
    """Raise ``BackendError`` if this CPU does not support BF16."""
    if not offers_bf16():
        raise BackendError(
            "this CPU does not support BF16", expected="AVX-512 BF16 or AMX", fix="use another precision"
        )


def configuration(
    precision: InferencePrecision, threads: int | None, mode: Mode = "latency", pinning: bool = False
) -> dict[str, Any]:
    """Return the configuration for compiling a model, which always sets precision and pinning.

    By default, OpenVINO pins the threads of each model to the first cores: two processes of one
    thread each share one core and leave the next one idle (19 instead of 42 frames per second,
    measured). A single process is as fast without pinning.

    Args:
        precision: The precision in which FP32 operations are computed.
        threads: Threads of one inference; None leaves it to OpenVINO.
        mode: ``latency`` for one request on all threads, ``throughput`` for several at a time.
        pinning: Whether threads stay on their cores.
    """
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "f32" else "PERFORMANCE",
        "PERFORMANCE_HINT": mode.upper(),
        **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
        "ENABLE_CPU_PINNING": pinning,
    }


def read_graph(content: bytes, batch: int) -> Any:
    """Return the model of an ONNX file's content for one batch size.

    It has the changes of :mod:`kdx.runtime.openvino.graph`, which make it faster.
    """
    # As a stream: while OpenVINO parses plain bytes, it blocks every other thread of the program.
    model = core().read_model(io.BytesIO(content))
    shape = model.input(0).partial_shape
    shape[0] = batch
    model.reshape({model.input(0): shape})
    reduce_channel_sums(model)
    use_unsigned_activations(model)
    return model


def compile_model(model: Any, config: dict[str, Any]) -> Any:
    """Compile the result of :func:`read_graph`, or a part of it."""
    if config["INFERENCE_PRECISION_HINT"] == "bf16":
        model = with_fp32_island(core(), model)
    return core().compile_model(model, DEVICE, config)


def image_tensor(images: NDArray[np.uint8]) -> Any:
    """Return images as an input of a request: a view, or a copy of a read-only array.

    To run a request on a tensor needs half of the Python code that arrays in a dictionary need.
    """
    return ov.Tensor(images, shared_memory=images.flags.writeable)


def load_compiled(
    cache: BlobCache, config: dict[str, Any], content: tuple[object, ...], model: Callable[[], Any]
) -> Any:
    """Take a compiled model from the cache, or compile it and store it there.

    Args:
        cache: The cache of compiled models.
        config: The result of :func:`configuration`.
        content: A key that distinguishes this model from every other.
        model: Returns the model to compile.
    """
    # "blob 2": earlier versions could store under a graph's hash what they had compiled from
    # another file.
    key = ("blob 2", __version__, ov.__version__, *_cpu(), *content, sorted(config.items()))
    blob = cache.read(*key)
    if blob is not None:
        try:
            return core().import_model(io.BytesIO(blob), DEVICE, config)
        except RuntimeError:
            pass  # complete, but not for this OpenVINO
    compiled = compile_model(model(), config)
    if cache.folder is not None:
        cache.write(compiled.export_model().getvalue(), *key)
    return compiled


def blob_folder(graph: Graph) -> Path | None:
    """Return the folder for models that are compiled from a graph; None if they are not kept.

    For a bundle whose signature was required, it is one to which no other user can write.
    """
    if graph.seal is not None:
        return private_cache("openvino")
    folder = cache_folder()
    return folder / "openvino" if folder else None


@lru_cache(maxsize=1)
def _cpu() -> tuple[str, ...]:
    get = core().get_property
    return (get(DEVICE, "FULL_DEVICE_NAME"), *get(DEVICE, "OPTIMIZATION_CAPABILITIES"))
