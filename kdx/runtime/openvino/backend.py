"""Backend ``openvino``: FP32 and INT8 graphs on CPUs, and BF16 on CPUs that support it.

The precision is always set. By default, OpenVINO computes an FP32 graph in BF16 on CPUs that
support it, and scores change by a few percent without any notice.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from kdx.bundle.checked_files import Graph, HeldGraph
from kdx.bundle.graph_contract import MODULES, OUTPUTS
from kdx.errors import BackendError, KdxError
from kdx.runtime.backend import ClosesOnExit, Outputs
from kdx.runtime.openvino.batch_cache import BatchCache
from kdx.runtime.openvino.blob_cache import BlobCache
from kdx.runtime.openvino.compilation import (
    KEPT_BATCH_SIZES,
    InferencePrecision,
    Mode,
    blob_folder,
    compile_model,
    configuration,
    image_tensor,
    load_compiled,
    read_graph,
    require_bf16,
)


class OpenVino(ClosesOnExit):
    """A graph in OpenVINO's CPU plugin.

    Shapes are static: each batch size is compiled at its first call, and the last few models are
    kept. Calls from several threads at once are safe: each call has its own inference request, and
    does not wait while another batch size is compiled.

    Args:
        graph: The graph. Its content is read when a batch size is compiled, and only content that
            was checked is compiled.
        threads: Threads of one inference; None leaves it to OpenVINO (one per physical core).
        precision: ``f32``, also for INT8 graphs, whose types determine what is INT8; or ``bf16``.
        mode: ``latency``: a batch is computed at once, on all threads. ``throughput``: the images
            of a batch are computed one by one, several at a time; for large batches and many cores.
        pinning: Whether threads stay on their cores. Pinned threads of two processes or backends
            share the first cores while others idle.
        cache: The folder in which compiled models are kept; None keeps none.

    Raises:
        BackendError: OpenVINO cannot load the graph, or the CPU lacks the precision.
    """

    name = "openvino"

    def __init__(
        self,
        graph: Graph,
        threads: int | None = None,
        *,
        precision: InferencePrecision = "f32",
        mode: Mode = "latency",
        pinning: bool = False,
        cache: Path | None = None,
    ) -> None:
        if precision == "bf16":
            require_bf16()
        self._content = graph.hold()
        self._mode = mode
        self._config = configuration(precision, threads, mode, pinning)
        blobs = BlobCache(cache, private=graph.seal is not None)
        # It must not refer to this object, so that a backend that is dropped without closing is
        # freed at once.
        make = functools.partial(_compiled, graph.sha256, self._content, blobs, self._config)
        self._models: BatchCache[int, _CompiledGraph] = BatchCache(make, KEPT_BATCH_SIZES)
        # Single images come at any time: the models of other batch sizes never displace theirs.
        self.keep([1])
        try:
            first = self._models.get(1)  # so that an invalid graph fails here
        except KdxError:
            raise
        except Exception as error:  # OpenVINO's exceptions have no common base but Exception
            raise BackendError(f"OpenVINO cannot load '{graph.path}': {error}") from error
        self._image_shape = first.image_shape

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`."""
        # OpenVINO would silently convert other types.
        if images.dtype != np.uint8 or images.shape[1:] != self._image_shape or not len(images):
            raise BackendError(
                "the batch does not fit the graph",
                expected=f"uint8 (N, {', '.join(map(str, self._image_shape))})",
                received=f"{images.dtype} {images.shape}",
            )
        try:
            if self._mode == "throughput":
                return self._models.get(1).run_each(images)
            return self._models.get(len(images)).run(images)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"OpenVINO failed on a batch of shape {images.shape}: {error}") from error

    def close(self) -> None:
        """Free the compiled models. Calls that are running finish as usual."""
        self._models.close()
        self._content.close()

    def keep(self, batches: Sequence[int]) -> None:
        """Keep the models of these batch sizes, however many others are used."""
        self._models.keep(batches)

    def compiled_model(self, batch: int = 1) -> Any:
        """Return OpenVINO's compiled model for a batch size."""
        return self._models.get(batch).model

    def node_times(self, images: NDArray[np.uint8], runs: int, warm_up: int) -> dict[str, float]:
        """Return the mean milliseconds per call of each node.

        Images run one at a time, in a separate compiled model.

        The time of nodes that OpenVINO fused counts for the first of them.
        """
        model = compile_model(read_graph(self._content.read(), 1), {**self._config, "PERF_COUNT": True})
        notes = {op.get_friendly_name(): op.get_rt_info() for op in model.get_runtime_model().get_ops()}
        request = model.create_infer_request()
        times: dict[str, float] = {}
        for index in range(warm_up + runs):
            request.infer({0: images[index % len(images)][None]})
            for node in request.profiling_info if index >= warm_up else ():
                if node.real_time and node.node_name in notes:
                    originals = notes[node.node_name]["originalLayersNames"].value.split(",")
                    name = next((each for each in originals if each.startswith(MODULES)), node.node_name)
                    times[name] = times.get(name, 0.0) + node.real_time.total_seconds() * 1e3 / runs
        return times


class _CompiledGraph:
    """A compiled model and its inference requests."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.image_shape = tuple(model.input(0).shape)[1:]
        self._ports = [model.output(name) for name in OUTPUTS]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._all: Any = None
        self._turn = threading.Lock()

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        try:
            request, tensors = self._idle.get_nowait()
        except queue.Empty:
            request = self.model.create_infer_request()
            tensors = [request.get_tensor(port) for port in self._ports]
        # The outputs are copies. To take them from tensors instead of the results' dictionary, and
        # the image as a tensor, saves 5 % of a call of a compact pair.
        request.infer(image_tensor(images), share_inputs=True, share_outputs=True)
        outputs = Outputs(*(each.data.copy() for each in tensors))
        self._idle.put((request, tensors))
        return outputs

    def run_each(self, images: NDArray[np.uint8]) -> Outputs:
        outputs = Outputs(*(np.empty((len(images), *tuple(port.shape)[1:]), np.float32) for port in self._ports))

        # The requests refer to the function below, which must not refer to what holds them.
        ports = self._ports

        def store(request: Any, index: int) -> None:
            for array, port in zip(outputs, ports, strict=True):
                array[index] = request.get_tensor(port).data[0]

        with self._turn:
            if self._all is None:
                self._all = ov.AsyncInferQueue(self.model)
            try:
                self._all.set_callback(store)
                for index in range(len(images)):
                    self._all.start_async({0: images[index : index + 1]}, index)
                self._all.wait_all()
            except BaseException:
                # Some requests may still run: the next call gets a new queue.
                self._all = None
                raise
        return outputs


def _compiled(sha256: str, content: HeldGraph, cache: BlobCache, config: dict[str, Any], batch: int) -> _CompiledGraph:
    return _CompiledGraph(load_compiled(cache, config, (sha256, batch), lambda: read_graph(content.read(), batch)))


def openvino_backend(graph: Graph, threads: int | None = None) -> OpenVino:
    """Return the backend for a bundle's FP32 or INT8 graph."""
    return OpenVino(graph, threads, cache=blob_folder(graph))


def openvino_throughput_backend(graph: Graph, threads: int | None = None) -> OpenVino:
    """Return the backend that computes the images of a batch one by one, several at a time."""
    backend = OpenVino(graph, threads, mode="throughput", cache=blob_folder(graph))
    backend.name = "openvino-throughput"
    return backend


def openvino_bf16_backend(graph: Graph, threads: int | None = None) -> OpenVino:
    """Return the backend that computes the networks of a bundle's FP32 graph in BF16.

    Raises:
        BackendError: The CPU has no BF16.
    """
    return OpenVino(graph, threads, precision="bf16", cache=blob_folder(graph))
