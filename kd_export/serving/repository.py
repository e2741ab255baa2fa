"""From a bundle to a model in a Triton repository: ``REPOSITORY/NAME/config.pbtxt``, ``1/`` and ``warmup/``."""

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
from kdx import __version__
from kdx.bundle.bundle import Bundle
from kdx.bundle.engine_record import PLAN, Engine, engines_of
from kdx.bundle.manifest import GRAPH, INDEX
from kdx.calibration.validity import CalibrationValidity
from kdx.errors import BackendError, OptionError
from kdx.loading.served_answers import parameters_of
from kdx.runtime.backend_table import find_backend
from kdx.storage.files import new_folder, refuse_existing, sha256_file

BACKENDS = {"onnxruntime": ("fp32", "fp16", "int8"), "openvino": ("fp32", "bf16", "int8"), "tensorrt": ("fp32", "fp16")}
VERSION = "1"
# The release that Triton's README names as the current one, as of August 2026.
CONTAINER = "nvcr.io/nvidia/tritonserver:26.07-py3"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ServingRequest:
    """How a bundle is to be served.

    Attributes:
        backend: Triton's: one of :data:`BACKENDS`.
        name: The model's; None for the bundle's.
        precision: Of the bundle's graphs; None for FP32, and with ``tensorrt`` for its only engine's.
        max_batch: Largest batch; None for the largest that graph and backend take.
        max_queue_delay_us: How long a request may wait for others to share a batch with, in microseconds.
        instances: How many run at once.
        gpu: Whether on a GPU; None for what the backend is for.
        threads: Of each CPU instance; None leaves it to the backend.
        engine: Name of the engine, where several would do.
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
    """What was written.

    Attributes:
        folder: The model's.
        model: What the server is told of it.
        precision: In which it computes.
        command: Runs the server on this repository.
        note: What the command leaves open, or empty.
    """

    folder: Path
    model: ServedModel
    precision: str
    command: str
    note: str


def write_repository(bundle: Bundle, request: ServingRequest, repository: Path, *, force: bool = False) -> Served:
    """Write a model into a Triton repository, once its configuration was held against Triton's protobuf and the graph.

    Args:
        bundle: The bundle.
        request: How to serve it.
        repository: The folder of models; others in it stay.
        force: Replace a model of this name; nothing else is ever replaced.

    Raises:
        OptionError: The backend cannot do what is asked, or the bundle has tiles, a region of interest or a level map.
        BundleError: The bundle holds no graph of the precision.
        BackendError: There is no engine, or it was altered.
        OutputError: The model exists.
        GateError: The server would not decide what was trained. Nothing is written.
    """
    if request.backend not in BACKENDS:
        raise OptionError("no such backend", expected=", ".join(BACKENDS), received=request.backend)
    if bundle.manifest.tiling is not None:
        raise OptionError(
            "Triton serves the graph alone, which judges tiles: this bundle takes whole frames",
            fix="load the bundle in the line's own program",
        )
    if bundle.manifest.roi_sha256 is not None:
        raise OptionError(
            "Triton serves the graph alone, which scores whole images: this bundle has a region of interest",
            fix=f"serve a copy without it: kdx roi {bundle.path} --remove, and calibrate the copy",
        )
    if bundle.manifest.level_sha256 is not None:
        raise OptionError(
            "Triton serves the graph alone, which does not normalise: this bundle has a level map",
            fix=f"serve a copy without it: kdx calibrate {bundle.path} DATA, without --per-position",
        )
    engine = _engine(bundle, request) if request.backend == "tensorrt" else None
    precision = engine.record.precision if engine else request.precision or "fp32"
    if precision not in BACKENDS[request.backend]:
        raise OptionError(
            f"Triton's backend {request.backend} serves no {precision}",
            expected=" or ".join(BACKENDS[request.backend]),
            received=precision,
        )
    bundle.graph_of(precision)
    images = bundle.golden().images
    model = _model(bundle, request, precision, engine, len(images))
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
        raise OptionError(
            "the model's name is not possible", expected="letters, digits, '_', '.' and '-'", received=name
        )
    if request.instances < 1 or request.max_queue_delay_us < 0 or (request.threads is not None and request.threads < 1):
        raise OptionError("instances, threads and delay cannot be negative or none", expected="at least 1, 1 and 0")
    max_batch = _max_batch(bundle, request, engine)
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
        # TensorFloat-32 rounds FP32 operands to 10 bits: not what was calibrated.
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
        # It computes its largest batch for every request, and a batch that requests fill up comes back cut short
        # (github.com/triton-inference-server/openvino_backend/pull/115). Instances run in parallel instead.
        if request.max_batch not in {None, 1}:
            raise OptionError(
                "Triton's OpenVINO backend cannot batch requests",
                expected="batches of 1",
                received=str(request.max_batch),
                fix="use --instances, which run in parallel",
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
        raise OptionError("TensorRT runs on GPUs", fix="leave out --cpu, or take --backend onnxruntime")
    if request.gpu and request.backend == "openvino":
        raise OptionError("Triton's OpenVINO backend runs on CPUs", fix="leave out --gpu, or take another backend")
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
    """Return the runtime of the server that computes the scores, as kdx calls it."""
    if request.backend == "onnxruntime":
        return find_backend("onnxruntime-cuda" if _on_gpu(request) else "onnxruntime-cpu").runtime
    return find_backend(request.backend).runtime


def _client_parameters(bundle: Bundle, precision: str, runtime: str) -> dict[str, str]:
    """Return what a client needs for a verdict, and what tells which bundle is served.

    Raises:
        OptionError: The bundle is calibrated, but not for this precision in the server's runtime.
    """
    validity = CalibrationValidity(bundle.manifest, precision, runtime)
    undecided = validity.why_undecided
    if undecided is not None:
        raise OptionError(
            "a client could decide nothing", received=undecided, fix="calibrate with that runtime, or serve fp32"
        )
    return {
        **parameters_of(
            bundle.manifest,
            bundle.manifest.threshold_of(precision, runtime),
            validity.why_uncertain,
        ),
        "kdx.precision": precision,
        "kdx.method": bundle.manifest.method,
        "kdx.version": __version__,
        "kdx.bundle_json_sha256": sha256_file(bundle.path / INDEX),
    }


def _warm_up_batches(max_batch: int) -> list[int]:
    """Return 1, 2, 4, ... and the largest: memory is taken, and kernels are chosen, anew for each size."""
    batches = [1]
    while batches[-1] < max_batch:
        batches.append(min(2 * batches[-1], max_batch))
    return batches


def _write_graph(bundle: Bundle, precision: str, engine: Engine | None, model: ServedModel, folder: Path) -> Tensors:
    """Write what the server runs, and return its inputs and outputs."""
    graph = bundle.graph_of(precision).read()
    if engine is not None:
        (folder / model.file).write_bytes(engine.read_plan())
        return tensors_of_onnx(graph)  # a plan can be read on its own GPU alone
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


def _engine(bundle: Bundle, request: ServingRequest) -> Engine:
    """Return the one engine that is meant.

    Raises:
        BackendError: There is none, with the reason for each that is there.
        OptionError: There are several.
    """
    found: dict[str, Engine] = {}
    unreadable: dict[str, str] = {}
    why_not: dict[str, str] = {}
    for engine in engines_of(bundle.path, unreadable):
        record, name = engine.record, engine.path.name
        if request.engine not in {None, name}:
            continue
        if record.fingerprint.flavour != "tensorrt":
            why_not[name] = "for TensorRT for RTX, which Triton has no backend for"
        elif request.precision not in {None, record.precision}:
            why_not[name] = record.precision
        elif record.onnx_sha256 != _graph_sha256(bundle, record.precision):
            why_not[name] = "stale: built from another graph"
        else:
            found[name] = engine
    if len(found) > 1:
        raise OptionError(
            "several engines would do", expected="one", received=", ".join(found), fix="name one with --engine"
        )
    if not found:
        reasons = {**why_not, **unreadable}
        raise BackendError(
            f"'{bundle.path}' holds no engine to serve",
            expected=f"an engine of TensorRT{f', {request.precision}' if request.precision else ''}",
            received="; ".join(f"engines/{name}: {reason}" for name, reason in reasons.items()) or "no engine",
            fix=f"kdx build-engine {bundle.path}, on the GPU and with the TensorRT of the server",
        )
    return next(iter(found.values()))


def _graph_sha256(bundle: Bundle, precision: str) -> str:
    held = precision in bundle.manifest.precisions
    return bundle.graph_of(precision).sha256 if held else ""


def _command(repository: Path, model: ServedModel, engine: Engine | None) -> tuple[str, str]:
    """Return the command of Triton's own documentation, and what it leaves open."""
    container, note = CONTAINER, ""
    if engine is not None:
        container = CONTAINER.replace("26.07", "YY.MM")
        built = engine.record.fingerprint
        note = (
            f"YY.MM: the release with TensorRT {built.tensorrt}, by docs.nvidia.com/deeplearning/frameworks; "
            f"on {built.gpu} alone"
        )
    ports = " ".join(f"-p{port}:{port}" for port in (8000, 8001, 8002))
    gpus = "--gpus=1 " if model.gpu else ""
    volume = shlex.quote(f"{repository.resolve()}:/models")
    return f"docker run {gpus}--rm {ports} -v {volume} {container} tritonserver --model-repository=/models", note
