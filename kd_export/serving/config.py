"""A model's ``config.pbtxt`` for NVIDIA Triton, built as a message and compared with the graph.

The message is ``ModelConfig`` of ``tritonclient``, generated from the same file as the server's:
only fields that Triton has can be written. (PyPI's ``triton`` is another package.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kdx.bundle.graph_contract import INPUT, MAP, SCORE
from kdx.errors import GateError
from kdx.imaging.images import InputSpec

CONFIG = "config.pbtxt"
WARM_UP = "warmup"  # where Triton looks for the warm-up's files


class TensorSpec(NamedTuple):
    """An input or an output of a graph.

    Attributes:
        kind: The element type as Triton names it: ``TYPE_UINT8``, ``TYPE_FP32``, ...
        shape: The shape including the batch; None for a dimension that is not fixed.
    """

    kind: str
    shape: tuple[int | None, ...]


class Tensors(NamedTuple):
    """A graph's inputs and outputs, by name."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class WarmUp(NamedTuple):
    """A request that Triton sends to itself before it reports that it is ready.

    Attributes:
        file: A file in the model's folder ``warmup``: one image as raw bytes.
        batch: How often the image is repeated to make a batch.
    """

    file: str
    batch: int


@dataclass(frozen=True)
class ServedModel:
    """The description of a model for a server.

    Attributes:
        name: The model's name for clients.
        backend: ``onnxruntime``, ``openvino`` or ``tensorrt``.
        file: The graph's name in the version's folder.
        input: What the graph accepts.
        map_size: Height and width of the anomaly map.
        max_batch: Largest batch; 0 if the graph takes exactly one image, which its shapes include.
        gpu: Whether the model runs on a GPU.
        instances: Number of instances that run at once.
        max_queue_delay_us: How long a request may wait for others to share a batch with, in
            microseconds.
        parameters: Parameters for the backend and for clients.
        cuda: Options of ONNX Runtime's CUDA provider.
        profiles: TensorRT's optimisation profiles, by number.
        warm_up: Requests that are made before the first client's.
    """

    name: str
    backend: str
    file: str
    input: InputSpec
    map_size: tuple[int, int]
    max_batch: int
    gpu: bool
    instances: int
    max_queue_delay_us: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)
    cuda: Mapping[str, str] = field(default_factory=dict)
    profiles: Sequence[str] = ()
    warm_up: Sequence[WarmUp] = ()


def config_of(model: ServedModel) -> Any:
    """Return Triton's ``ModelConfig`` message of a model."""
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

    size = (model.input.height, model.input.width, model.input.channels)
    batch = () if model.max_batch else (1,)
    config = ModelConfig(
        name=model.name,
        backend=model.backend,
        default_model_filename=model.file,
        max_batch_size=model.max_batch,
        instance_group=[
            ModelInstanceGroup(
                count=model.instances,
                kind=ModelInstanceGroup.KIND_GPU if model.gpu else ModelInstanceGroup.KIND_CPU,
                profile=model.profiles,
            )
        ],
    )
    config.input.add(name=INPUT, data_type="TYPE_UINT8", dims=(*batch, *size))
    config.output.add(name=MAP, data_type="TYPE_FP32", dims=(*batch, *model.map_size))
    config.output.add(name=SCORE, data_type="TYPE_FP32", dims=(*batch, 1))
    if model.max_batch > 1:
        config.dynamic_batching.max_queue_delay_microseconds = model.max_queue_delay_us
    if model.cuda:
        config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda", parameters=model.cuda)
    for key, value in model.parameters.items():
        config.parameters[key].string_value = value
    for request in model.warm_up:
        sample = config.model_warmup.add(name=f"{request.file}, batch {request.batch}", batch_size=request.batch)
        image = sample.inputs[INPUT]
        image.data_type = config.input[0].data_type
        image.dims.extend(config.input[0].dims)
        image.input_data_file = request.file
    return config


def text_of(config: Any) -> str:
    """Return a configuration as text, after checking that it reads back as the same message."""
    from google.protobuf import text_format

    text = str(text_format.MessageToString(config))
    read = text_format.Parse(text, type(config)())
    if read != config:
        raise GateError("config.pbtxt does not read back as written", fix="nothing was written; please report this")
    return text


def require_fit(config: Any, tensors: Tensors, folder: Path) -> None:
    """Compare a configuration with its graph, by the rules of Triton's backends.

    Args:
        config: The message.
        tensors: Inputs and outputs of the graph.
        folder: The model's folder, with the warm-up's files.

    Raises:
        GateError: They differ; the message names every difference.
    """
    from tritonclient.grpc.model_config_pb2 import DataType

    faults: list[str] = []
    for word, entries, found in (("input", config.input, tensors.inputs), ("output", config.output, tensors.outputs)):
        declared = {
            entry.name: TensorSpec(
                DataType.Name(entry.data_type), (*((None,) if config.max_batch_size else ()), *entry.dims)
            )
            for entry in entries
        }
        faults += [
            f"{word} '{name}': the configuration says {declared.get(name)}, the graph {found.get(name)}"
            for name in sorted(declared.keys() | found.keys())
            if declared.get(name) != found.get(name)
        ]
    for sample in config.model_warmup:
        if sample.batch_size > max(1, config.max_batch_size):
            faults.append(f"warm-up '{sample.name}' exceeds the largest batch")
        for image in sample.inputs.values():
            needed, file = math.prod(image.dims), folder / WARM_UP / image.input_data_file
            if not file.is_file() or file.stat().st_size != needed:
                faults.append(f"warm-up file '{image.input_data_file}' does not have {needed} bytes")
    if faults:
        raise GateError(
            f"the configuration does not fit the graph: {'; '.join(faults)}",
            fix="nothing was written; please report this",
        )


def tensors_of_onnx(graph: bytes) -> Tensors:
    """Read a graph's inputs and outputs from the file's content."""
    import onnx

    kinds = {onnx.TensorProto.UINT8: "TYPE_UINT8", onnx.TensorProto.FLOAT: "TYPE_FP32"}
    loaded = onnx.load_from_string(graph).graph

    def read(values: Any) -> dict[str, TensorSpec]:
        found = {}
        for value in values:
            tensor = value.type.tensor_type
            shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
            found[value.name] = TensorSpec(kinds.get(tensor.elem_type, f"ONNX type {tensor.elem_type}"), shape)
        return found

    return Tensors(read(loaded.input), read(loaded.output))
