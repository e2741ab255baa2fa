"""Backend ``onnxruntime-cpu``: the FP32 graph in ONNX Runtime's CPU provider."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from kdx.bundle.checked_files import Graph
from kdx.bundle.graph_contract import INPUT, OUTPUTS
from kdx.errors import BackendError
from kdx.runtime.backend import ClosesOnExit, Outputs
from kdx.runtime.onnxruntime.session import open_session

_KERNEL = "_kernel_time"


class OnnxRuntimeCpu(ClosesOnExit):
    """A graph in an ONNX Runtime session.

    Calls from several threads at once are safe, and share the session's threads.

    Args:
        graph: The graph, whose checked content is loaded.
        threads: Threads within an operation; None leaves it to ONNX Runtime (one per physical
            core).

    Raises:
        BackendError: ONNX Runtime cannot load the graph.
    """

    name = "onnxruntime-cpu"

    def __init__(self, graph: Graph, threads: int | None = None) -> None:
        self._graph, self._threads = graph.hold(), threads
        self._session: ort.InferenceSession | None = open_session(graph.read(), f"'{graph.path}'", threads=threads)

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
        """Return the mean milliseconds per call of each node.

        Images run one at a time, in a separate session.
        """
        if self._session is None:
            raise BackendError("the detector is closed", fix="load the bundle again")
        with tempfile.TemporaryDirectory() as folder:
            session = open_session(
                self._graph.read(), f"'{self._graph.path}'", threads=self._threads, profile=Path(folder) / "profile"
            )
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
