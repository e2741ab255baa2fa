"""Builds an engine from a bundle's graph, beside it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from kd_export.engine.flavours import Flavour, load_flavour, target_capability
from kd_export.engine.inspection import inspect_plan
from kd_export.engine.layers import logged_layers, network_layers, require_convolutions
from kd_export.engine.timing_cache import keep_timings, require_place, use_timing_cache
from kdx import __version__
from kdx.bundle.bundle import Bundle
from kdx.bundle.checked_files import Graph
from kdx.bundle.engine_record import (
    DEFAULT_LEVEL,
    ENGINES,
    PLAN,
    RECORD,
    SCHEMA,
    Engine,
    EngineRecord,
    Fingerprint,
    Layer,
    engine_name,
    this_system,
)
from kdx.errors import BackendError, GateError, OptionError
from kdx.remarks import Remark
from kdx.runtime.gpu import gpus
from kdx.runtime.tensorrt.cuda.created import created
from kdx.runtime.tensorrt.log import make_log
from kdx.storage.files import new_folder, refuse_existing, require_writable, sha256_bytes
from kdx.storage.json_records import encode_record, now

LEVELS = range(6)
_MIB = 1 << 20


@dataclass(frozen=True)
class EngineRequest:
    """A request for an engine.

    Attributes:
        flavour: ``tensorrt`` or ``rtx``.
        precision: The precision of the graph to build from.
        batches: Batch sizes; each gets an optimisation profile that accepts batches from 1 up to
            it.
        level: Builder optimisation level, 0 to 5: more time for faster kernels.
        compute_capability: Compute capability of the GPU to build for; None for this machine's.
        timing_cache: A file of kernel timings to read and to update.
    """

    flavour: str
    precision: str = "fp32"
    batches: tuple[int, ...] = (1,)
    level: int = DEFAULT_LEVEL
    compute_capability: str | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class BuildPlan:
    """A request that this machine can carry out.

    Attributes:
        request: The request, its batches ascending.
        graph: The graph to build from.
        fingerprint: The system that the engine will run on.
        target: The engine's folder.
        kept: The names of the networks' nodes that the graph keeps in FP32.
    """

    request: EngineRequest
    graph: Graph
    fingerprint: Fingerprint
    target: Path
    kept: frozenset[str]


def plan_build(bundle: Bundle, request: EngineRequest) -> tuple[BuildPlan, Flavour]:
    """Check a request with the bundle and this machine, and return what would be built.

    Raises:
        BundleError: The bundle holds no graph of that precision.
        OptionError: An invalid batch, level, compute capability or place of the timing cache.
        OutputError: The timing cache cannot be written there.
        BackendError: TensorRT or the GPU is missing.
    """
    graph = bundle.graph_of(request.precision)
    largest = bundle.manifest.max_batch
    batches = tuple(sorted(set(request.batches)))
    if not batches or not all(1 <= batch <= largest for batch in batches):
        raise OptionError(
            "the batch size is out of range",
            expected=f"1 to {largest} for this bundle",
            received=",".join(map(str, request.batches)),
        )
    if request.level not in LEVELS:
        raise OptionError("`level` is out of range", expected="0 to 5", received=str(request.level))
    if request.timing_cache is not None and request.flavour == "rtx":
        raise OptionError("TensorRT for RTX times no kernels at build time", fix="leave out `timing_cache`")
    if request.timing_cache is not None:
        require_place(request.timing_cache)
    flavour = load_flavour(request.flavour)
    capability = target_capability(request.flavour, request.compute_capability)
    # TensorRT uses the first GPU, whatever others there are. On it, the engine can be inspected.
    gpu = next((gpu for gpu in gpus()[:1] if gpu.compute_capability == capability), None)
    fingerprint = Fingerprint(
        flavour=request.flavour,
        tensorrt=flavour.version,
        compute_capability=capability,
        gpu=gpu.name if gpu else None,
        driver=gpu.driver if gpu else None,
        system=this_system(),
    )
    request = replace(request, batches=batches)
    target = bundle.path / ENGINES / engine_name(request.flavour, capability, request.precision)
    variant = bundle.manifest.variants.get(request.precision)
    kept = frozenset(each.node for each in variant.kept) if variant else frozenset()
    return BuildPlan(request, graph, fingerprint, target, kept), flavour


def build_engine(
    bundle: Bundle,
    request: EngineRequest,
    *,
    force: bool = False,
    announce: Callable[[str], None] = lambda _: None,
    note: Callable[[Remark], object] = lambda _: None,
) -> Engine:
    """Build an engine; it appears in the bundle's folder when it is complete and was checked.

    Args:
        bundle: The bundle.
        request: The request.
        force: Replace an engine that is there.
        announce: Takes a text that says what is built, once nothing stands against it.
        note: Takes a remark if the timing cache could not be written; the engine is complete then.

    Raises:
        OutputError: There is one already.
        GateError: TensorRT refuses the graph, or the engine does not run in the precision that was
            asked for.
        BackendError: The build failed.
        Everything that :func:`plan_build` raises.
    """
    plan, flavour = plan_build(bundle, request)
    refuse_existing(plan.target, force=force and (plan.target / RECORD).is_file())
    require_writable(bundle.path)
    announce(f"building {request.precision} for {request.flavour}: seconds for rtx, minutes for tensorrt")
    started = time.perf_counter()
    built = _build(plan, flavour)
    data = built.plan
    seconds = time.perf_counter() - started
    batches = plan.request.batches
    memory: int | None = None
    if plan.fingerprint.gpu is not None:
        source, (layers, memory) = "inspector", inspect_plan(flavour, data, batches)
    else:
        source, layers = ("builder", built.logged) if built.logged else ("network", built.demanded)
    not_shown: list[str] = []
    if request.precision != "fp32":
        # The types of a network demand FP16 of the engine. They do not demand INT8: TensorRT may
        # compute in FP32 between the nodes that quantise.
        types_decide = flavour.is_typed and request.precision == "fp16"
        not_shown = require_convolutions(
            built.demanded,
            layers if source != "network" or types_decide else [],
            request.precision,
            profiles=1 if source == "network" else len(batches),
            types_decide=types_decide,
        )
    record = EngineRecord(
        schema=SCHEMA,
        kdx_version=__version__,
        created=now(),
        fingerprint=plan.fingerprint,
        precision=request.precision,
        batches=list(batches),
        level=request.level,
        onnx_sha256=plan.graph.sha256,
        plan_sha256=sha256_bytes(data),
        layers=layers,
        layers_from=source,
        build_seconds=round(seconds, 3),
        peak_memory_mib=round(_peak_memory_mib(), 1),
        device_memory_mib=None if memory is None else round(memory / _MIB, 1),
        not_shown=not_shown,
    )
    with new_folder(plan.target, force=force) as folder:
        (folder / PLAN).write_bytes(data)
        (folder / RECORD).write_bytes(encode_record(record))
    if built.timings is not None and request.timing_cache is not None:
        for one in keep_timings(request.timing_cache, built.timings):
            note(one)
    return Engine(plan.target, record, sha256_bytes(encode_record(record)))


class _Built(NamedTuple):
    """A built plan.

    Attributes:
        plan: The plan.
        demanded: The layers that its network demands.
        logged: The layers that the builder logged, if it did.
        timings: The updated content of the timing cache; None if there is none.
    """

    plan: bytes
    demanded: list[Layer]
    logged: list[Layer]
    timings: bytes | None


def _build(plan: BuildPlan, flavour: Flavour) -> _Built:
    trt = flavour.module
    log = make_log(trt)

    def make(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return created(what, lambda: function(*arguments), log.take)

    builder = make("a builder", trt.Builder, log)
    network = make("a network", flavour.create_network, builder)
    parser = make("a parser", trt.OnnxParser, network, log)
    if not parser.parse(_graph_for(plan, is_typed=flavour.is_typed)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise GateError(f"TensorRT {flavour.version} refuses the graph: {errors}", fix="please report this backbone")
    config = make("a configuration", builder.create_builder_config)
    config.builder_optimization_level = plan.request.level
    # On by default: TF32 rounds the mantissa of FP32 products to 10 bits, which is not what was
    # verified.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector then reports formats and types
    _add_profiles(builder, config, network.get_input(0), plan.request.batches)
    flavour.set_target(config, plan.fingerprint.compute_capability)
    flavour.set_precision(network, config, plan.request.precision, plan.kept)
    flavour.leave_out_sources(config)
    cache = use_timing_cache(config, plan.request.timing_cache)
    demanded = network_layers(network)
    with _interruptible(trt, config) as interrupted:
        data = builder.build_serialized_network(network, config)
    if interrupted.is_set():
        raise KeyboardInterrupt
    if data is None:
        raise BackendError("TensorRT could not build the engine", received=log.take(), fix="see kdx doctor")
    timings = None if cache is None else bytes(cache.serialize())
    return _Built(bytes(data), demanded, logged_layers(log.layers), timings)


def _graph_for(plan: BuildPlan, *, is_typed: bool) -> bytes:
    """Return the graph, rewritten where TensorRT cannot take it otherwise."""
    data = plan.graph.read()
    is_turing = (plan.request.flavour, plan.fingerprint.compute_capability) == ("rtx", "7.5")
    if is_typed and not is_turing and plan.request.precision != "int8":
        return data
    try:
        import onnx
    except ImportError as error:
        what = "for compute capability 7.5" if is_turing else "an INT8 engine" if is_typed else "with TensorRT 8.6"
        raise BackendError(f"building {what} needs the package 'onnx'", fix="pip install onnx") from error
    from kd_export.engine.opset17 import quantise_weights_in_graph, to_opset_17
    from kd_export.engine.turing import products_to_convolutions
    from kd_export.precision.activations import signed_activations

    model = onnx.load_from_string(data)
    if plan.request.precision == "int8":
        model = signed_activations(model)
    if is_turing:
        model = products_to_convolutions(model)
    if not is_typed:
        model = to_opset_17(quantise_weights_in_graph(model))
    rewritten: bytes = model.SerializeToString()
    return rewritten


def _add_profiles(builder: Any, config: Any, image: Any, batches: Sequence[int]) -> None:
    sizes = tuple(image.shape)[1:]
    for batch in batches:
        profile = created("an optimisation profile", builder.create_optimization_profile)
        profile.set_shape(image.name, (1, *sizes), (batch, *sizes), (batch, *sizes))
        if config.add_optimization_profile(profile) < 0:  # TensorRT returns -1 for a profile that it does not accept
            raise BackendError(
                f"TensorRT does not take an optimisation profile for batches of up to {batch}", fix="see kdx doctor"
            )


@contextmanager
def _interruptible(trt: Any, config: Any) -> Iterator[threading.Event]:
    """Let Ctrl-C and SIGTERM end a build: Python handles no signal while TensorRT's code runs.

    SIGTERM is handled where it acts as Ctrl-C does, as it does in commands.
    """
    interrupted = threading.Event()
    if not hasattr(trt, "IProgressMonitor") or threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:
            return not interrupted.is_set()

        def phase_finish(self, phase: str) -> None:
            pass

    config.progress_monitor = Monitor()
    numbers = [signal.SIGINT]
    if signal.getsignal(signal.SIGTERM) is signal.default_int_handler:
        numbers.append(signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: interrupted.set()) for number in numbers}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _peak_memory_mib() -> float:
    """Return this process's largest resident memory; 0 on systems that do not report it."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / _MIB if sys.platform == "darwin" else peak / 1024
