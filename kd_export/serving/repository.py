"""Writes a bundle as a model in a Triton repository: ``config.pbtxt``, ``1/`` and ``warmup/``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_export.serving.config import (
    CONFIG,
    WARM_UP,
    ServedModel,
    Tensors,
    WarmUp,
    config_of,
    require_fit,
    tensors_of_onnx,
    text_of,
)
from kd_export.serving.served_engine import find_served_engine
from kdx import __version__
from kdx.bundle.bundle import Bundle
from kdx.bundle.engine_record import PLAN, Engine
from kdx.bundle.manifest import GRAPH
from kdx.calibration.validity import CalibrationValidity
from kdx.errors import OptionError
from kdx.loading.load import require_outside_bundles
from kdx.loading.served_answers import parameters_of
from kdx.runtime.backend_table import find_backend
from kdx.storage.files import new_folder, refuse_existing

TRITON_BACKENDS = {
    "onnxruntime": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp32", "fp16", "int8"),
}
VERSION = "1"
# The release that Triton's README names as the current one, as of August 2026.
CONTAINER = "nvcr.io/nvidia/tritonserver:26.07-py3"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ServingRequest:
    """How a bundle is to be served.

    Attributes:
        backend: Triton's backend: one of :data:`BACKENDS`.
        name: The model's name; None for the bundle's.
        precision: The precision of the graph; None for FP32, and with ``tensorrt`` for that of its
            only engine.
        max_batch: Largest batch; None for the largest that graph and backend take.
        max_queue_delay_us: How long a request may wait for others to share a batch with, in
            microseconds; above 0 only with batches of several images.
        instances: Number of instances that run at once.
        gpu: Whether to run on a GPU; None for a GPU if the backend needs one.
        threads: Threads of each CPU instance; None leaves it to the backend.
        engine: Name of the engine, if several are suitable.
    """

    backend: str = "onnxruntime"
    name: str | None = None
    precision: str | None = None
    max_batch: int | None = None
    max_queue_delay_us: int = 0
    instances: int = 1
    gpu: bool | None = None
    threads: int | None = None
    engine: str | None = None


class Served(NamedTuple):
    """A model that was written.

    Attributes:
        folder: The model's folder.
        model: The description of the model for the server.
        precision: The precision in which the server computes.
        command: The command that runs the server on this repository.
        note: What the user must fill in in the command, or an empty string.
    """

    folder: Path
    model: ServedModel
    precision: str
    command: str
    note: str

    def record(self) -> dict[str, object]:
        """Return the model as ``kdx triton --json`` prints it."""
        return {
            "model": str(self.folder),
            "name": self.model.name,
            "backend": self.model.backend,
            "precision": self.precision,
            "max_batch": max(1, self.model.max_batch),
            "gpu": self.model.gpu,
            "instances": self.model.instances,
            "parameters": dict(self.model.parameters),
            "command": self.command,
            "note": self.note,
        }


def write_repository(bundle: Bundle, request: ServingRequest, repository: Path, *, force: bool = False) -> Served:
    """Write a model into a Triton repository, after comparing its configuration with the graph.

    Args:
        bundle: The bundle.
        request: How to serve it.
        repository: The folder of models; others in it stay.
        force: Replace a model of this name; nothing else is replaced.

    Raises:
        OptionError: The backend does not support the request, or the bundle has tiles, a region of
            interest or a level map.
        BundleError: The bundle holds no graph of the precision.
        BackendError: There is no engine, or it was altered.
        OutputError: The model exists, or the repository lies in a bundle or a run.
        GateError: The server would not decide what was trained. Nothing is written.
    """
    if request.backend not in TRITON_BACKENDS:
        raise OptionError("unknown backend of Triton", expected=", ".join(TRITON_BACKENDS), received=request.backend)
    if bundle.manifest.tiling is not None:
        raise OptionError(
            "Triton runs only the graph, which judges tiles: this bundle takes whole frames",
            fix="load the bundle in the line's own program",
        )
    if bundle.manifest.roi_sha256 is not None:
        raise OptionError(
            "Triton runs only the graph, which scores whole images: this bundle has a region of interest",
            fix=f"serve a copy without it: kdx roi {bundle.path} --remove, and calibrate the copy",
        )
    if bundle.manifest.level_sha256 is not None:
        raise OptionError(
            "Triton runs only the graph, which does not normalise: this bundle has a level map",
            fix=f"serve a copy without it: kdx calibrate {bundle.path} DATA, without --per-position",
        )
    engine = find_served_engine(bundle, request.precision, request.engine) if request.backend == "tensorrt" else None
    precision = engine.record.precision if engine else request.precision or "fp32"
    if precision not in TRITON_BACKENDS[request.backend]:
        raise OptionError(
            f"Triton's backend {request.backend} serves no {precision}",
            expected=" or ".join(TRITON_BACKENDS[request.backend]),
            received=precision,
        )
    bundle.graph_of(precision)
    images = bundle.golden().images
    model = _model(bundle, request, precision, engine, len(images))
    require_outside_bundles(repository, "repository")
    target = repository / model.name
    refuse_existing(target, force=force and (target / CONFIG).is_file())
    with new_folder(target, force=force) as folder:
        (folder / VERSION).mkdir()
        tensors = _write_graph(bundle, precision, engine, model, folder / VERSION)
        _write_warm_up(model.warm_up, images, folder / WARM_UP)
        config = config_of(model)
        text = text_of(config)
        require_fit(config, tensors, folder)
        bundle.require_present("written for the server", fix="call again")
        (folder / CONFIG).write_text(text, encoding="utf-8")
    command, note = _command(repository, model, engine)
    return Served(target, model, precision, command, note)


def _model(bundle: Bundle, request: ServingRequest, precision: str, engine: Engine | None, golden: int) -> ServedModel:
    name = bundle.path.resolve().name.removesuffix(".kdx") if request.name is None else request.name
    if not _NAME.fullmatch(name):
        raise OptionError("invalid name of a model", expected="letters, digits, '_', '.' and '-'", received=name)
    if request.instances < 1 or request.max_queue_delay_us < 0 or (request.threads is not None and request.threads < 1):
        raise OptionError("invalid `instances`, `threads` or `max_queue_delay_us`", expected="at least 1, 1 and 0")
    max_batch = _max_batch(bundle, request, engine)
    if request.max_queue_delay_us and max_batch <= 1:
        raise OptionError(
            "`max_queue_delay_us` would change nothing: the server judges one image of this model at a time",
            fix="leave it out, or serve larger batches if graph and backend take them",
        )
    return ServedModel(
        name=name,
        backend=request.backend,
        file={"onnxruntime": GRAPH, "openvino": "model.xml", "tensorrt": PLAN}[request.backend],
        input=bundle.manifest.input,
        map_size=bundle.manifest.map_size,
        max_batch=max_batch,
        gpu=_on_gpu(request),
        instances=request.instances,
        max_queue_delay_us=request.max_queue_delay_us,
        parameters={
            **_backend_parameters(request, precision),
            **_client_parameters(bundle, precision, _runtime(request)),
        },
        # TensorFloat-32 rounds FP32 operands to 10 bits, which is not what was calibrated.
        cuda={"use_tf32": "0"} if request.backend == "onnxruntime" and _on_gpu(request) else {},
        profiles=[str(index) for index in range(len(engine.record.batches))] if engine else (),
        warm_up=[
            WarmUp(f"golden-{index % golden}.raw", batch) for index, batch in enumerate(_warm_up_batches(max_batch))
        ],
    )


def _max_batch(bundle: Bundle, request: ServingRequest, engine: Engine | None) -> int:
    """Return Triton's ``max_batch_size``; 0 for a graph of exactly one image."""
    largest = min(bundle.manifest.max_batch, engine.record.batches[-1] if engine else bundle.manifest.max_batch)
    if request.backend == "openvino":
        # It computes its largest batch for every request, and returns a batch made of several
        # requests truncated (github.com/triton-inference-server/openvino_backend/pull/115).
        # Instances run in parallel instead.
        if request.max_batch not in {None, 1}:
            raise OptionError(
                "Triton's OpenVINO backend cannot batch requests",
                expected="batches of 1",
                received=str(request.max_batch),
                fix="use `instances`, which run in parallel",
            )
        return 0
    if request.max_batch is not None and not 1 <= request.max_batch <= largest:
        what = f"engine '{engine.path.name}'" if engine else "graph"
        raise OptionError(
            f"the {what} takes no such batch", expected=f"1 to {largest}", received=str(request.max_batch)
        )
    return 0 if bundle.manifest.max_batch == 1 else request.max_batch or largest


def _on_gpu(request: ServingRequest) -> bool:
    if request.gpu is False and request.backend == "tensorrt":
        raise OptionError("TensorRT runs on GPUs", fix="do not ask for the CPU, or take `backend='onnxruntime'`")
    if request.gpu and request.backend == "openvino":
        raise OptionError("Triton's OpenVINO backend runs on CPUs", fix="leave out `gpu`, or take another backend")
    return request.backend == "tensorrt" if request.gpu is None else request.gpu


def _backend_parameters(request: ServingRequest, precision: str) -> dict[str, str]:
    if request.backend == "openvino":
        return {
            "PERFORMANCE_HINT": "LATENCY" if request.instances == 1 else "THROUGHPUT",
            "NUM_STREAMS": str(request.instances),  # instances share one compiled model
            **({"INFERENCE_NUM_THREADS": str(request.threads * request.instances)} if request.threads else {}),
            **({"HINT_BF16": "YES"} if precision == "bf16" else {}),
        }
    return {"intra_op_thread_count": str(request.threads)} if request.threads and not _on_gpu(request) else {}


def _runtime(request: ServingRequest) -> str:
    """Return the name in kdx of the server's runtime that computes the scores."""
    if request.backend == "onnxruntime":
        return find_backend("onnxruntime-cuda" if _on_gpu(request) else "onnxruntime-cpu").runtime
    return find_backend(request.backend).runtime


def _client_parameters(bundle: Bundle, precision: str, runtime: str) -> dict[str, str]:
    """Return the parameters that a client needs for a verdict, and those that identify the bundle.

    Raises:
        OptionError: The bundle is calibrated, but not for this precision in the server's runtime.
    """
    validity = CalibrationValidity(bundle.manifest, precision, runtime)
    undecided = validity.why_undecided
    if undecided is not None:
        raise OptionError(
            "every verdict of a client would be undecided",
            received=undecided,
            fix="calibrate with that runtime, or serve fp32",
        )
    threshold = bundle.manifest.threshold_of(precision, runtime)
    by_hand = threshold.reason if threshold else None
    return {
        **parameters_of(bundle.manifest, threshold, validity.why_uncertain),
        **({} if by_hand is None else {"kdx.threshold_by_hand": by_hand}),
        "kdx.precision": precision,
        "kdx.method": bundle.manifest.method,
        "kdx.version": __version__,
        "kdx.bundle_json_sha256": bundle.index_sha256,
    }


def _warm_up_batches(max_batch: int) -> list[int]:
    """Return 1, 2, 4, ... and the largest: each size has its own memory and kernels."""
    batches = [1]
    while batches[-1] < max_batch:
        batches.append(min(2 * batches[-1], max_batch))
    return batches


def _write_graph(bundle: Bundle, precision: str, engine: Engine | None, model: ServedModel, folder: Path) -> Tensors:
    """Write the graph that the server runs, and return its inputs and outputs."""
    graph = bundle.graph_of(precision).read()
    if engine is not None:
        (folder / model.file).write_bytes(engine.read_plan())
        return tensors_of_onnx(graph)  # a plan can only be read on its own GPU
    if model.backend == "openvino":
        from kd_export.serving.openvino_ir import require_same_decisions, write_ir

        tensors = write_ir(bundle, precision, folder)
        require_same_decisions(bundle, precision, folder, model.parameters)
        return tensors
    (folder / model.file).write_bytes(graph)
    return tensors_of_onnx(graph)


def _write_warm_up(requests: Sequence[WarmUp], images: NDArray[np.uint8], folder: Path) -> None:
    folder.mkdir()
    for index, request in enumerate(requests[: len(images)]):
        (folder / request.file).write_bytes(np.ascontiguousarray(images[index]).tobytes())


def _command(repository: Path, model: ServedModel, engine: Engine | None) -> tuple[str, str]:
    """Return the command of Triton's documentation, and what the user must fill in."""
    container, note = CONTAINER, ""
    if engine is not None:
        container = CONTAINER.replace("26.07", "YY.MM")
        built = engine.record.fingerprint
        note = (
            f"YY.MM: the release with TensorRT {built.tensorrt}, by docs.nvidia.com/deeplearning/frameworks; "
            f"only on {built.gpu}"
        )
    ports = " ".join(f"-p{port}:{port}" for port in (8000, 8001, 8002))
    gpus = "--gpus=1 " if model.gpu else ""
    volume = shlex.quote(f"{repository.resolve()}:/models")
    return f"docker run {gpus}--rm {ports} -v {volume} {container} tritonserver --model-repository=/models", note
