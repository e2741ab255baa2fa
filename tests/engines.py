"""Engines for tests: records of machines that are not here, and plans that no TensorRT reads."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kdx.bundle.engine_record import PLAN, RECORD, SCHEMA, EngineRecord, Fingerprint, Layer
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
