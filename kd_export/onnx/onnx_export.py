"""The fused detector as one ONNX graph, checked for what the graph contract asks."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from onnx import ModelProto, TensorProto
from torch.export import Dim

from kd_export.graph import FusedDetector
from kd_export.onnx.batch_dimension import TRACED_BATCH, set_batch
from kdx.bundle.graph_contract import INPUT, MODULES, OUTPUTS, TAIL
from kdx.errors import GateError, OptionError

OPSET = 18
MAX_BATCH = 1024


def require_batch(max_batch: int) -> None:
    """Raise ``OptionError`` for a largest batch that is out of range."""
    if not 1 <= max_batch <= MAX_BATCH:
        raise OptionError("`max_batch` is out of range", expected=f"1 to {MAX_BATCH}", received=str(max_batch))


def export_onnx(detector: FusedDetector, path: Path, *, max_batch: int, metadata: Mapping[str, str]) -> None:
    """Write the detector's graph.

    Args:
        detector: The detector, on the CPU.
        path: The file to write; weights are inside it.
        max_batch: The batch dimension is dynamic from 1 to this; 1 makes it static.
        metadata: Stored as the model's ``metadata_props``.

    Raises:
        OptionError: ``max_batch`` is out of range.
        GateError: The graph breaks the contract.
    """
    require_batch(max_batch)
    model = _traced(detector, TRACED_BATCH)
    if not set_batch(model, 1 if max_batch == 1 else None):
        model = _traced(detector, min(max_batch, 2), Dim("N", min=1, max=max_batch) if max_batch > 1 else None)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    require_contract(model, detector)
    onnx.save_model(model, str(path))


def _traced(detector: FusedDetector, batch: int, symbol: Dim | None = None) -> ModelProto:
    """Return the graph of a batch size, or of each that the symbol stands for."""
    spec = detector.input_spec
    example = torch.zeros(batch, spec.height, spec.width, spec.channels, dtype=torch.uint8)
    # The exporter prints progress and deprecations to the standard output, which is for results.
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        _quiet("torch.onnx"),
        _quiet("onnxscript"),
    ):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            detector,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=None if symbol is None else {INPUT: {0: symbol}},
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _name_nodes(model)
    _strip(model)
    return model


def metadata_of(
    detector: FusedDetector, *, method: str, kdx_version: str, bundle_schema: int, max_batch: int
) -> dict[str, str]:
    """Return what the graph says of itself."""
    spec = detector.input_spec
    return {
        "kdx.version": kdx_version,
        "kdx.bundle_schema": str(bundle_schema),
        "kdx.method": method,
        "kdx.batch": f"1 to {max_batch}",
        "kdx.input": json.dumps(
            {
                "height": spec.height,
                "width": spec.width,
                "channels": spec.channels,
                "channel_order": spec.channel_order,
                "layout": "NHWC",
                "type": "uint8",
            }
        ),
    }


def require_contract(model: ModelProto, detector: FusedDetector) -> None:
    """Check a graph against the contract: names, types, shapes, nothing left over.

    Raises:
        GateError: Naming what is wrong.
    """
    graph = model.graph
    spec = detector.input_spec
    faults: list[str] = []
    if [value.name for value in graph.input] != [INPUT]:
        faults.append(f"inputs {[value.name for value in graph.input]}")
    elif graph.input[0].type.tensor_type.elem_type != TensorProto.UINT8:
        faults.append("the input is not uint8")
    elif _shape(graph.input[0])[1:] != [spec.height, spec.width, spec.channels]:
        faults.append(f"input shape {_shape(graph.input[0])}")
    if [value.name for value in graph.output] != list(OUTPUTS):
        faults.append(f"outputs {[value.name for value in graph.output]}")
    elif _shape(graph.output[0])[1:] != list(detector.size) or _shape(graph.output[1])[1:] != [1]:
        faults.append(f"output shapes {[_shape(value) for value in graph.output]}")
    for node in graph.node:
        if node.domain not in {"", "ai.onnx"} or node.op_type in {"BatchNormalization", "Resize"}:
            faults.append(f"node {node.domain}::{node.op_type}")
        if not node.name.startswith(MODULES):
            faults.append(f"node {node.name} comes from none of {', '.join(MODULES)}")
        if INPUT in node.input and node.op_type != "Cast":
            faults.append(f"the uint8 input feeds {node.op_type} before it is cast")
    faults += [f"dead node {name}" for name in _dead_nodes(model)]
    faults += [f"{name} may divide by zero" for name in _unbounded_roots(model)]
    if faults:
        raise GateError(
            f"the exported graph breaks its contract: {'; '.join(faults)}", fix="please report this backbone"
        )


def _unbounded_roots(model: ModelProto) -> list[str]:
    """Return roots after the last tap whose argument has no lower bound.

    The bound may be missing because exporters treat small constants as zero.
    """
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Sqrt" and node.name.startswith(TAIL) and makers.get(node.input[0]) not in {"Clip", "Max"}
    ]


def _dead_nodes(model: ModelProto) -> list[str]:
    """Return nodes that lead to no output."""
    wanted = set(OUTPUTS)
    dead: list[str] = []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted.update(node.input)
        else:
            dead.append(f"{node.op_type} {node.name}")
    return dead


def _name_nodes(model: ModelProto) -> None:
    """Name each node and its outputs by the module, as in ``pair.student.layer1.0.conv1/Conv``.

    Profilers, engine inspectors and the precision pass speak of nodes by name; the exporter numbers
    them. Runtimes that replace nodes (ONNX Runtime's blocked convolutions) name the new ones after
    their outputs.
    """
    taken: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    kept = {value.name for value in model.graph.output}
    modules: list[str] = []
    of_consumers: dict[str, str] = {}
    for node in reversed(model.graph.node):
        scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
        # The last scope is the operation itself, the first the root. Operations with several
        # outputs (Split) have none: they get that of what takes one of these outputs.
        module = next(iter(ast.literal_eval(scopes)[-2:-1]), "")
        module = module or next((found for name in node.output if (found := of_consumers.get(name))), "")
        of_consumers.update(dict.fromkeys(node.input, module))
        modules.append(module)
    for node, module in zip(model.graph.node, reversed(modules), strict=True):
        name = f"{module}/{node.op_type}"
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        for index, output in enumerate(node.output):
            if output and output not in kept:
                renamed[output] = node.name if index == 0 else f"{node.name}:{index}"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]


def _strip(model: ModelProto) -> None:
    """Drop the exporter's notes (stack traces with this machine's paths) from the graph."""
    graph = model.graph
    del model.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    model.doc_string = ""
    graph.doc_string = ""
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim]


@contextlib.contextmanager
def _quiet(name: str):  # type: ignore[no-untyped-def]
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
