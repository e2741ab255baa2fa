"""The only function that opens sessions of ONNX Runtime: without its fallback to the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from kdx.errors import BackendError

CPU = "CPUExecutionProvider"
_ERRORS_ONLY = 3


def open_session(
    content: bytes,
    name: str,
    *,
    providers: Sequence[Any] = (CPU,),
    threads: int | None = None,
    profile: Path | None = None,
) -> ort.InferenceSession:
    """Load an ONNX graph.

    Args:
        content: The ONNX file's content.
        name: What the graph is called in messages.
        providers: ONNX Runtime's execution providers, the preferred one first.
        threads: Threads within an operation; None leaves it to ONNX Runtime (one per physical
            core).
        profile: Prefix of the file into which ONNX Runtime profiles the session; None for no
            profile.

    Raises:
        BackendError: ONNX Runtime cannot load the graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        # With its fallback, ONNX Runtime would print the failure on standard output, and try once
        # more.
        return ort.InferenceSession(content, options, providers=list(providers), enable_fallback=0)
    # ONNX Runtime's exceptions have no common base but Exception.
    except Exception as error:
        raise BackendError(f"ONNX Runtime cannot load {name}: {error}") from error
