"""A TensorRT engine in a bundle: ``engines/NAME/model.plan``, a plain plan, and ``engine.json``, what belongs to it.

A plan runs where it was built for and nowhere else; TensorRT says so late and badly, or not at all. The record beside
it is a fingerprint: it is held against the machine before the plan is touched. The bundle's own index does not list
engines: they are made on the line PC, and the bundle that was verified stays as it is.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kdx.bundle.checked_files import Graph
from kdx.bundle.seal import SIGN_AGAIN
from kdx.errors import BackendError
from kdx.storage.files import restore, sha256_bytes
from kdx.storage.json_records import decode_record

SCHEMA = 1
FOLDER = "engines"
PLAN = "model.plan"
RECORD = "engine.json"
FLAVOURS = ("tensorrt", "rtx")


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is bound to, or what a machine has.

    Attributes:
        flavour: ``tensorrt``, or ``rtx`` for TensorRT for RTX.
        tensorrt: Its version.
        compute_capability: As in ``8.6``.
        gpu: The card's name; None for a plan that was built without one.
        driver: The CUDA driver's version; recorded, never refused: plans survive its updates.
        system: Operating system and processor, ``Linux x86_64``.
    """

    flavour: str
    tensorrt: str
    compute_capability: str
    gpu: str | None
    driver: str | None
    system: str


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer of an engine.

    Attributes:
        name: As TensorRT calls it.
        kind: Its type, lower case: ``convolution``, ``cast``, ...
        precision: ``fp16``, ``fp32``, ``uint8``, ...: of what it computes.
    """

    name: str
    kind: str
    precision: str


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``engine.json``.

    Attributes:
        schema: Version of this layout; a newer one is refused.
        kdx_version: The kdx that built it.
        created: UTC time, ISO 8601.
        fingerprint: Where it runs.
        precision: ``fp32`` or ``fp16``.
        batches: Batch size of each optimisation profile, which accepts 1 up to it; ascending.
        level: Builder optimisation level.
        onnx_sha256: Hash of the graph it was built from.
        plan_sha256: Hash of the plan.
        layers: Every layer.
        layers_from: ``inspector``: what the built engine runs; ``network``: what the typed network demands, where there
            was no GPU to load the engine and inspect it.
        build_seconds: How long the build took.
        peak_memory_mib: Largest resident memory of the build process.
        device_memory_mib: Device memory that one execution context takes, beside the weights; None without a GPU.
    """

    schema: int
    kdx_version: str
    created: str
    fingerprint: Fingerprint
    precision: str
    batches: list[int]
    level: int
    onnx_sha256: str
    plan_sha256: str
    layers: list[Layer]
    layers_from: str
    build_seconds: float
    peak_memory_mib: float
    device_memory_mib: float | None = None


@dataclass(frozen=True)
class Engine:
    """An engine on disk.

    Attributes:
        path: Its folder.
        record: What belongs to it.
        record_sha256: Hash of the file that the record was read from.
    """

    path: Path
    record: EngineRecord
    record_sha256: str

    @property
    def plan(self) -> Path:
        """The plain plan."""
        return self.path / PLAN

    def read_plan(self) -> bytes:
        """Read the plan; raise ``BackendError`` when it is not the one that was built."""
        data = self.plan.read_bytes() if self.plan.is_file() else b""
        if sha256_bytes(data) != self.record.plan_sha256:
            raise BackendError(f"'{self.plan}' is missing or was altered", fix=rebuild_command(self.record))
        return data


def this_system() -> str:
    """Return the operating system and processor as fingerprints keep them."""
    return f"{platform.system()} {platform.machine()}"


def engines_of(bundle: Path, unreadable: dict[str, str] | None = None) -> Iterator[Engine]:
    """Yield the engines in a bundle's folder.

    Args:
        bundle: The folder.
        unreadable: Takes the names of engines whose record is damaged, of a newer kdx, or no readable file, with the
            reason. One such must not stand in the way of the others, nor of a backend that needs none.
    """
    restore(bundle / FOLDER)
    for record in sorted((bundle / FOLDER).glob(f"*/{RECORD}")):
        if record.parent.name.startswith("."):
            continue  # under construction, or what a kill left of that
        try:
            content = record.read_bytes()
            read = decode_record(
                content, record, EngineRecord, error=BackendError, fix="build it again", supported=SCHEMA
            )
        except (BackendError, OSError) as error:
            if unreadable is not None:
                said = (
                    error.message if isinstance(error, BackendError) else f"{RECORD} cannot be read: {error.strerror}"
                )
                unreadable[record.parent.name] = said
            continue
        yield Engine(record.parent, read, sha256_bytes(content))


def find_engine(graph: Graph, machine: Fingerprint) -> Engine:
    """Return the engine of a bundle's graph that runs on this machine.

    Args:
        graph: The graph in its bundle.
        machine: What this machine has, of one flavour.

    Raises:
        BackendError: There is none, with the reason for each that is there, and the command that builds one.
        BundleError: A signature was required of the bundle, and it does not cover the engine.
    """
    reasons = []
    unreadable: dict[str, str] = {}
    for engine in engines_of(graph.path.parent, unreadable):
        why_not = mismatch(engine.record, machine, graph.sha256)
        if not why_not:
            if graph.seal is not None:
                fix = f"{SIGN_AGAIN}, with the engines in it; or remove '{engine.path}'"
                name = f"{FOLDER}/{engine.path.name}/{RECORD}"  # which holds the hash of the plan
                graph.seal.require_engine_file(name, engine.record_sha256, fix=fix)
            return engine
        reasons.append(f"engines/{engine.path.name}: {why_not}")
    reasons += [f"engines/{name}: {why_not}" for name, why_not in unreadable.items()]
    fp16 = "--fp16 " if "fp16" in graph.path.name else ""
    raise BackendError(
        f"'{graph.path.parent.name}' holds no engine of {graph.path.name} for this machine",
        expected=describe(machine),
        received="; ".join(reasons) or "no engine",
        fix=f"kdx build-engine {graph.path.parent} {fp16}--flavour {machine.flavour}",
    )


def mismatch(record: EngineRecord, machine: Fingerprint, onnx_sha256: str) -> str:
    """Say why an engine may not run here, or return an empty string."""
    built = record.fingerprint
    if record.onnx_sha256 != onnx_sha256:
        return "stale or of another precision: built from another graph"
    for what, ours, theirs in (
        ("flavour", machine.flavour, built.flavour),
        ("TensorRT", machine.tensorrt, built.tensorrt),
        ("compute capability", machine.compute_capability, built.compute_capability),
        ("system", machine.system, built.system),
    ):
        if ours != theirs:
            return f"built for {what} {theirs}, here is {ours}"
    # Tactics were timed on that card; another with the same capability may lack what they need.
    if built.flavour == "tensorrt" and machine.gpu != built.gpu:
        return f"built on {built.gpu}, here is {machine.gpu}"
    return ""


def describe(machine: Fingerprint) -> str:
    """Say a fingerprint in words."""
    name = "TensorRT for RTX" if machine.flavour == "rtx" else "TensorRT"
    gpu = f", {machine.gpu}" if machine.gpu else ""
    return f"{name} {machine.tensorrt}, compute capability {machine.compute_capability}{gpu}, {machine.system}"


def rebuild_command(record: EngineRecord) -> str:
    """Return the command that builds an engine of the same kind again."""
    fp16 = " --fp16" if record.precision == "fp16" else ""
    return f"kdx build-engine BUNDLE{fp16} --flavour {record.fingerprint.flavour} --force"
