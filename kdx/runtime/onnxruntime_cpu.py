"""Backend ``onnxruntime-cpu``: the FP32 graph in ONNX Runtime's CPU provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from kdx.errors import BackendError
from kdx.runtime.backend import ClosesOnExit, Outputs

PROVIDER = "CPUExecutionProvider"
OUTPUTS = ["anomaly_map", "anomaly_score"]


class OnnxRuntimeCpu(ClosesOnExit):
    """A graph in an ONNX Runtime session. Calls from several threads at once are safe and share the session's threads.

    Args:
        graph: Path of the ONNX file.
        threads: Threads within an operation; None leaves it to ONNX Runtime (one per physical core).

    Raises:
        BackendError: ONNX Runtime cannot load the graph.
    """

    name = "onnxruntime-cpu"

    def __init__(self, graph: Path, threads: int | None = None) -> None:
        self._session: ort.InferenceSession | None = open_session(graph, [PROVIDER], threads)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`."""
        session = self._session
        if session is None:
            raise BackendError("the detector is closed", fix="load the bundle again")
        try:
            maps, scores = session.run(OUTPUTS, {"image": images})
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed on a batch of shape {images.shape}: {error}") from error
        return Outputs(maps, scores)

    def close(self) -> None:
        """Free the session."""
        self._session = None


def open_session(graph: Path, providers: Sequence[Any], threads: int | None) -> ort.InferenceSession:
    """Load a graph; raise ``BackendError`` when ONNX Runtime cannot."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(str(graph), options, providers=list(providers))
    # ONNX Runtime's exceptions share no base but Exception.
    except Exception as error:
        raise BackendError(f"ONNX Runtime cannot load '{graph}': {error}") from error
