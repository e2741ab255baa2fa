"""A TensorRT engine in a bundle: ``engines/NAME/model.plan``, and its record ``engine.json``.

A plan runs only on machines like the one it was built for, and TensorRT reports a mismatch late or
not at all. Therefore the fingerprint in the record is compared with the machine before the plan is
read. The bundle's index does not list engines: they are built on the line PC, and the verified
bundle stays unchanged.
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
ENGINES = "engines"
PLAN = "model.plan"
RECORD = "engine.json"
FLAVOURS = ("tensorrt", "rtx")
# The flags of kdx build-engine, and what it builds without further ones.
_FLAGS = {"fp16": " --fp16", "int8": " --int8"}
DEFAULT_BATCHES, DEFAULT_LEVEL = [1], 3


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of a machine that a plan depends on.

    Attributes:
        flavour: ``tensorrt``, or ``rtx`` for TensorRT for RTX.
        tensorrt: The version of TensorRT.
        compute_capability: The compute capability of the GPU, for example ``8.6``.
        gpu: The name of the GPU; None for a plan that was built without one.
        driver: The version of the CUDA driver, for information: plans remain valid after its
            updates.
        system: The operating system and processor, for example ``Linux x86_64``.
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
        name: TensorRT's name of the layer.
        kind: The type of the layer in lower case: ``convolution``, ``cast``, ...
        precision: Of a convolution, the types of its input and its weights; of another layer, those
            of its inputs and outputs: ``fp16``, ``int8``, ``fp16+fp32``, ...; empty where TensorRT
            does not show them.
    """

    name: str
    kind: str
    precision: str


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``engine.json``.

    Attributes:
        schema: The version of this layout; a newer one is refused.
        kdx_version: The version of kdx that built the engine.
        created: The time of the build, UTC, ISO 8601.
        fingerprint: The machines on which it runs.
        precision: ``fp32``, ``fp16`` or ``int8``.
        batches: The largest batch size of each optimisation profile, ascending; a profile accepts
            all from 1.
        level: The builder optimisation level.
        onnx_sha256: The hash of the graph from which it was built.
        plan_sha256: The hash of the plan.
        layers: The layers.
        layers_from: ``inspector`` for the layers that the built engine runs. If there was no GPU to
            load and inspect it, ``builder`` for those that TensorRT for RTX logged, or ``network``
            for those of the typed network.
        not_shown: The convolutions that ``layers`` do not show in the precision, although the
            network demands it: hidden in larger layers, or of a later optimisation profile whose
            layers are not listed (``[profile 1]``).
        build_seconds: The duration of the build.
        peak_memory_mib: The largest resident memory of the build process.
        device_memory_mib: The device memory in which all execution contexts compute, in addition to
            the weights; None without a GPU.
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
    not_shown: list[str] = []


@dataclass(frozen=True)
class Engine:
    """An engine on disk.

    Attributes:
        path: The folder of the engine.
        record: The content of ``engine.json``.
        record_sha256: The hash of ``engine.json``.
    """

    path: Path
    record: EngineRecord
    record_sha256: str

    @property
    def plan(self) -> Path:
        """The file of the plan."""
        return self.path / PLAN

    def read_plan(self) -> bytes:
        """Return the content of the plan; raise ``BackendError`` if it was altered."""
        data = self.plan.read_bytes() if self.plan.is_file() else b""
        if sha256_bytes(data) != self.record.plan_sha256:
            raise BackendError(f"'{self.plan}' is missing or was altered", fix=rebuild_command(self.record))
        return data


def engine_name(flavour: str, compute_capability: str, precision: str) -> str:
    """Return the name of the folder in which ``kdx build-engine`` puts an engine."""
    return f"{flavour}-{compute_capability}-{precision}"


def this_system() -> str:
    """Return the operating system and processor as fingerprints store them."""
    return f"{platform.system()} {platform.machine()}"


def engines_of(bundle: Path, unreadable: dict[str, str] | None = None) -> Iterator[Engine]:
    """Yield the engines in a bundle's folder.

    Args:
        bundle: The bundle's folder.
        unreadable: Receives the names of engines whose record cannot be read, with the reason. They
            do not prevent the use of other engines, or of a backend without engines.
    """
    restore(bundle / ENGINES)
    for record in sorted((bundle / ENGINES).glob(f"*/{RECORD}")):
        if record.parent.name.startswith("."):
            continue  # an engine that is being written, or leftovers of a killed writer
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


def records_of(graph: Graph) -> list[EngineRecord]:
    """Return the records of the engines that were built from a bundle's graph, for any machine."""
    records = [engine.record for engine in engines_of(graph.path.parent)]
    return [record for record in records if record.onnx_sha256 == graph.sha256]


def find_engine(graph: Graph, machine: Fingerprint) -> Engine:
    """Return the engine of a bundle's graph that runs on this machine.

    Args:
        graph: The graph in its bundle.
        machine: The fingerprint of this machine for one flavour.

    Raises:
        BackendError: No engine runs here; the message gives the reason for each, and the command
            that builds one.
        BundleError: A signature was required of the bundle, and it does not cover the engine.
    """
    reasons = []
    unreadable: dict[str, str] = {}
    engines = list(engines_of(graph.path.parent, unreadable))
    for engine in engines:
        why_not = mismatch(engine.record, machine, graph.sha256)
        if not why_not:
            if graph.seal is not None:
                fix = f"{SIGN_AGAIN}, with the engines in it; or remove '{engine.path}'"
                name = f"{ENGINES}/{engine.path.name}/{RECORD}"  # which holds the hash of the plan
                graph.seal.require_engine_file(name, engine.record_sha256, fix=fix)
            return engine
        reasons.append(f"engines/{engine.path.name}: {why_not}")
    reasons += [f"engines/{name}: {why_not}" for name, why_not in unreadable.items()]
    precision = next((precision for precision in _FLAGS if precision in graph.path.name), "fp32")
    name = engine_name(machine.flavour, machine.compute_capability, precision)
    kind = machine.flavour, precision
    alike = [each for each in engines if (each.record.fingerprint.flavour, each.record.precision) == kind]
    alike.sort(key=lambda each: each.path.name != name)  # first the one that a build would replace
    raise BackendError(
        f"'{graph.path.parent.name}' holds no engine of {graph.path.name} for this machine",
        expected=describe(machine),
        received="; ".join(reasons) or "no engine",
        fix=_build_command(
            str(graph.path.parent),
            precision,
            machine.flavour,
            like=alike[0].record if alike else None,
            force=name in unreadable or name in {each.path.name for each in engines},
        ),
    )


def mismatch(record: EngineRecord, machine: Fingerprint, onnx_sha256: str) -> str:
    """Return why an engine does not run on a machine, or an empty text."""
    built = record.fingerprint
    if record.onnx_sha256 != onnx_sha256:
        return "built from another graph: it is outdated or has another precision"
    for what, ours, theirs in (
        ("flavour", machine.flavour, built.flavour),
        ("TensorRT", machine.tensorrt, built.tensorrt),
        ("compute capability", machine.compute_capability, built.compute_capability),
        ("system", machine.system, built.system),
    ):
        if ours != theirs:
            return f"built for {what} {theirs}, here is {ours}"
    # The tactics were chosen on that GPU; another one of the same compute capability may lack what
    # they need.
    if built.flavour == "tensorrt" and machine.gpu != built.gpu:
        return f"built on {built.gpu}, here is {machine.gpu}"
    return ""


def describe(machine: Fingerprint) -> str:
    """Return a fingerprint in words."""
    name = "TensorRT for RTX" if machine.flavour == "rtx" else "TensorRT"
    gpu = f", {machine.gpu}" if machine.gpu else ""
    return f"{name} {machine.tensorrt}, compute capability {machine.compute_capability}{gpu}, {machine.system}"


def rebuild_command(record: EngineRecord, bundle: str = "BUNDLE") -> str:
    """Return the command that builds an engine of the same kind, batches and level in its place."""
    return _build_command(bundle, record.precision, record.fingerprint.flavour, like=record, force=True)


def _build_command(bundle: str, precision: str, flavour: str, *, like: EngineRecord | None, force: bool) -> str:
    command = f"kdx build-engine {bundle}{_FLAGS.get(precision, '')} --flavour {flavour}"
    if like is not None and like.batches != DEFAULT_BATCHES:
        command += f" --batch {','.join(map(str, like.batches))}"
    if like is not None and like.level != DEFAULT_LEVEL:
        command += f" --level {like.level}"
    return command + (" --force" if force else "")
