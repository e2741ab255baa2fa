"""Backend ``onnxruntime-cpu``: the FP32 graph in ONNX Runtime's CPU provider."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from kdx.bundle.checked_files import Graph, HeldGraph
from kdx.bundle.graph_contract import INPUT, OUTPUTS
from kdx.errors import BackendError
from kdx.runtime.backend import ClosesOnExit, Outputs

PROVIDER = "CPUExecutionProvider"
_KERNEL = "_kernel_time"


class OnnxRuntimeCpu(ClosesOnExit):
    """A graph in an ONNX Runtime session. Calls from several threads at once are safe and share the session's threads.

    Args:
        graph: Its content, as it was checked, is what is loaded.
        threads: Threads within an operation; None leaves it to ONNX Runtime (one per physical core).

    Raises:
        BackendError: ONNX Runtime cannot load the graph.
    """

    name = "onnxruntime-cpu"

    def __init__(self, graph: Graph, threads: int | None = None) -> None:
        self._graph, self._threads = graph.hold(), threads
        self._session: ort.InferenceSession | None = open_session(graph, [PROVIDER], threads)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`."""
        session = self._session
        if session is None:
            raise BackendError("the detector is closed", fix="load the bundle again")
        try:
            maps, scores = session.run(OUTPUTS, {INPUT: images})
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed on a batch of shape {images.shape}: {error}") from error
        return Outputs(maps, scores)

    def node_times(self, images: NDArray[np.uint8], runs: int, warm_up: int) -> dict[str, float]:
        """Return the mean milliseconds a call of each node, of images one at a time, in a session of its own."""
        if self._session is None:
            raise BackendError("the detector is closed", fix="load the bundle again")
        with tempfile.TemporaryDirectory() as folder:
            session = open_session(self._graph, [PROVIDER], self._threads, profile=Path(folder) / "profile")
            for index in range(warm_up + runs):
                session.run(OUTPUTS, {INPUT: images[index % len(images)][None]})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        by_node: dict[str, list[float]] = {}
        for event in events:
            name = event.get("name", "")
            if event.get("cat") == "Node" and name.endswith(_KERNEL):
                by_node.setdefault(name.removesuffix(_KERNEL), []).append(event["dur"] / 1e3)
        return {name: float(np.mean(times[warm_up:])) for name, times in by_node.items()}

    def close(self) -> None:
        """Free the session."""
        self._session = None
        self._graph.close()


def open_session(
    graph: Graph | HeldGraph, providers: Sequence[Any], threads: int | None, profile: Path | None = None
) -> ort.InferenceSession:
    """Load a graph, to be profiled into files of that prefix; raise ``BackendError`` when ONNX Runtime cannot."""
    content = graph.read()
    options = ort.SessionOptions()
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        # Left to itself it would say on standard output what failed, and try once more.
        return ort.InferenceSession(content, options, providers=list(providers), enable_fallback=0)
    # ONNX Runtime's exceptions share no base but Exception.
    except Exception as error:
        raise BackendError(f"ONNX Runtime cannot load '{graph.path}': {error}") from error
