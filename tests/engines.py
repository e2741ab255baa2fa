"""Engines for tests: records of machines that are not here, and plans that no TensorRT reads."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from kd_export.precision.activations import signed_activations
from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import PLAN, RECORD, SCHEMA, EngineRecord, Fingerprint, Layer, records_of
from kdx.errors import BackendError, InputError
from kdx.runtime.backend import Outputs
from kdx.runtime.backend_table import BACKENDS
from kdx.runtime.onnxruntime.cpu import OnnxRuntimeCpu
from kdx.storage.files import sha256_bytes
from kdx.storage.json_records import encode_record

MACHINE = Fingerprint(
    flavour="tensorrt",
    tensorrt="11.4.0.106",
    compute_capability="8.6",
    gpu="NVIDIA RTX A4000",
    driver="13.0",
    system="Linux x86_64",
)
RTX = msgspec.structs.replace(MACHINE, flavour="rtx", tensorrt="1.7.1.116")
ONNX = b"a graph"


def make_record(fingerprint: Fingerprint = MACHINE, plan: bytes = b"plan", **changes: object) -> EngineRecord:
    record = EngineRecord(
        schema=SCHEMA,
        kdx_version="0",
        created="2026-01-01T00:00:00+00:00",
        fingerprint=fingerprint,
        precision="fp16",
        batches=[1, 8],
        level=3,
        onnx_sha256=sha256_bytes(ONNX),
        plan_sha256=sha256_bytes(plan),
        layers=[Layer(name="conv1", kind="convolution", precision="fp16")],
        layers_from="inspector",
        build_seconds=12.5,
        peak_memory_mib=900.0,
        device_memory_mib=31.5,
    )
    return msgspec.structs.replace(record, **changes)


def add_engine(bundle: Path, name: str, record: EngineRecord, plan: bytes = b"plan") -> Path:
    folder = bundle / "engines" / name
    folder.mkdir(parents=True)
    (folder / PLAN).write_bytes(plan)
    (folder / RECORD).write_bytes(encode_record(record))
    return folder


class EmulatedTensorRT(OnnxRuntimeCpu):
    """The numbers of TensorRT without a GPU: the graph that its engine is built from, in ONNX
    Runtime. It needs an engine in the bundle, and takes its batches alone."""

    name = "tensorrt"

    def __init__(self, graph: Graph, threads: int | None = None) -> None:
        records = records_of(graph)
        if not records:
            raise BackendError(f"there is no engine of {graph.path.name}")
        self.max_batch = records[0].batches[-1]
        built_from = graph.path.parent / f"engines/{graph.path.name}"
        onnx.save(signed_activations(onnx.load_from_string(graph.read())), built_from)
        super().__init__(Graph.of(built_from), threads)
        built_from.unlink()

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        if len(images) > self.max_batch:
            raise InputError("the batch does not fit the engine", expected=f"1 to {self.max_batch} images")
        return super().run(images)


def emulate_tensorrt(monkeypatch) -> None:
    """Let the backend ``tensorrt`` run on this machine."""
    changes = {
        "package": "onnxruntime",
        "factory": "tests.engines:EmulatedTensorRT",
        "needs_gpu": False,
        "machine": None,
    }
    monkeypatch.setitem(BACKENDS, "tensorrt", dataclasses.replace(BACKENDS["tensorrt"], **changes))


def other_machine() -> Fingerprint:
    """Return the fingerprint of a machine on which engines for ``MACHINE`` do not run."""
    return msgspec.structs.replace(MACHINE, gpu="NVIDIA RTX A5000")
