"""The part of TensorRT's Python API that builds engines, in any version: it records what it is
asked to do.

``tests/kdx/runtime/tensorrt/fake_runtime.py`` is the part that runs them.
"""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

from tests.kdx.runtime.tensorrt.fake_runtime import REFUSED_PROFILE, Dims
from tests.kdx.runtime.tensorrt.real_api import VERSIONS, RealApi

REALS = {version: RealApi(version) for version in VERSIONS}
COMMON = RealApi(*VERSIONS)
DataType, LayerType = (COMMON.enumeration(name) for name in ("DataType", "LayerType"))


@COMMON.like("ITensor")
class Tensor:
    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...] = (-1, 8, 8, 3)) -> None:
        self.name, self.dtype, self.shape = name, dtype, Dims(*shape)


@COMMON.like("ILayer", own=("output", "source"))
class FakeLayer:
    """A layer of a strongly typed network."""

    def __init__(self, name: str, kind: Any, source: Tensor, target: Any) -> None:
        self.name, self.type = name, kind
        self.source, self.output = source, Tensor(f"{name}_output", target)
        self.num_outputs = 1

    def get_input(self, index: int) -> Tensor:
        return self.source

    def get_output(self, index: int) -> Tensor:
        return self.output


@REALS["8.6.0"].like("ILayer", own=("output", "source", "output_type"))
class WeakLayer(FakeLayer):
    """A layer of a weakly typed network, whose precision can be demanded."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.output_type: Any = None
        self._precision: Any = None

    @property
    def precision(self) -> Any:
        return self._precision or DataType.FLOAT

    @precision.setter
    def precision(self, precision: Any) -> None:
        self._precision = precision

    @property
    def precision_is_set(self) -> bool:
        return self._precision is not None

    def set_output_type(self, index: int, dtype: Any) -> None:
        self.output_type = dtype


NAMES = ("pair.teacher.conv1/Conv", "pair.student.conv1/Conv", "pair.student.conv10/Conv")


def layers_of(precision: str, *, typed: bool = True) -> list[Any]:
    """Return the layers of a network whose convolutions all have a precision.

    The tensors of a weakly typed one are FP32 until it is built.
    """
    layer = FakeLayer if typed else WeakLayer
    layers = [layer("preprocess/Cast", LayerType.CAST, Tensor("image", DataType.UINT8), DataType.FLOAT)]
    kind = DataType.HALF if precision == "fp16" and typed else DataType.FLOAT
    for name in NAMES:
        source = Tensor("feature", kind)
        if precision == "int8":
            layers.append(layer(f"{name}.dq", LayerType.DEQUANTIZE, Tensor("q", DataType.INT8), DataType.FLOAT))
            source = layers[-1].output
        layers.append(layer(name, LayerType.CONVOLUTION, source, kind))
    sums = layer("tail/MatMul", LayerType.MATRIX_MULTIPLY, Tensor("feature", DataType.FLOAT), DataType.FLOAT)
    return [*layers, sums]


def make(version: str = "10.16.1", precision: str = "fp16", **faults: Any) -> ModuleType:
    """Return a module like ``tensorrt``.

    Args:
        version: 8.6, 10.16 or 11.4, of which the first has no strong typing.
        precision: The precision of the network's convolutions.
        **faults: ``refuse`` (parser), ``fail`` (build), ``full`` (names of convolutions that the
            engine runs in FP32), ``hidden`` (names of convolutions in one larger layer),
            ``nameless`` (the inspector shows no names), ``shapeless`` (it shows formats only for
            the profile and the shape of its context), ``typeless`` (it shows none at all),
            ``unlisted`` (it lists the layers of the first profile alone), ``unloadable``,
            ``nothing`` (names of what is not created: a class raises what the real bindings do, a
            method returns None or what stands for failure).
    """
    major = int(version.split(".")[0])
    real = next(api for name, api in REALS.items() if name.split(".")[0] == str(major))
    sources, severities = (real.enumeration(name) for name in ("TacticSource", "Severity"))
    module = ModuleType("tensorrt")
    calls: list[Any] = []
    nothing = faults.get("nothing", ())

    def construct(kind: object) -> None:
        if type(kind).__name__ in nothing:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    layers = layers_of(precision, typed=major > 8)

    class Logger:
        Severity = severities

    @real.like("INetworkDefinition")
    class Network:
        def __init__(self) -> None:
            self.num_layers = len(layers)

        def get_layer(self, index: int) -> FakeLayer:
            return layers[index]

        def get_input(self, index: int) -> Tensor:
            return Tensor("image", DataType.UINT8)

    @real.like("OnnxParser")
    class Parser:
        def __init__(self, network: Any, log: Any) -> None:
            construct(self)
            self.num_errors = 1

        def parse(self, model: bytes) -> bool:
            calls.append(("parse", model))
            return not faults.get("refuse")

        def get_error(self, index: int) -> str:
            return "node 3: Resize(antialias=1) is not supported"

    @real.like("ITimingCache")
    class TimingCache:
        def __init__(self, data: bytes) -> None:
            self._data = data

        def serialize(self) -> bytes:
            return self._data + b"+"

    @real.like("IBuilderConfig", own=("flag_names", "profiles", "sources"))
    class Config:
        def __init__(self) -> None:
            self.flag_names: list[str] = ["TF32"]  # as TensorRT has it
            self.profiles: list[Any] = []
            # By default 10 and 11 use no other libraries.
            self.sources = {each.name for each in sources if major < 10 or "CU" not in each.name}

        def set_flag(self, flag: Any) -> None:
            self.flag_names.append(flag.name)

        def clear_flag(self, flag: Any) -> None:
            self.flag_names.remove(flag.name)

        def get_tactic_sources(self) -> int:
            return sum(1 << int(sources[name]) for name in self.sources)

        def set_tactic_sources(self, tactic_sources: int) -> bool:
            self.sources = {each.name for each in sources if tactic_sources >> int(each) & 1}
            return True

        def add_optimization_profile(self, profile: Any) -> int:
            self.profiles.append(profile.shapes)
            return -1 if "add_optimization_profile" in nothing else len(self.profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
            return None if serialized_timing_cache == b"foreign" else TimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            return True

    @real.like("IOptimizationProfile", own=("shapes",))
    class Profile:
        def __init__(self) -> None:
            self.shapes: list[Any] = []

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002 - TensorRT's names
            self.shapes.append((input, min, opt, max))

    @real.like("Builder", own=("log",))
    class Builder:
        def __init__(self, log: Any) -> None:
            if "Builder" in nothing:
                log.log(severities.WARNING, "CUDA initialization failure with error: 35")
            construct(self)
            self.log = log

        def create_network(self, flags: int) -> Network | None:
            calls.append(("network", flags))
            return None if "create_network" in nothing else Network()

        def create_builder_config(self) -> Config | None:
            module.config = Config()
            return None if "create_builder_config" in nothing else module.config

        def create_optimization_profile(self) -> Profile | None:
            return None if "create_optimization_profile" in nothing else Profile()

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            if faults.get("fail"):
                self.log.log(severities.ERROR, "out of device memory")
                return None
            return b"plan"

    @real.like("EngineInspector")
    class Inspector:
        def __init__(self) -> None:
            self.execution_context: Any = None

        def get_engine_information(self, format: Any) -> str:  # noqa: A002 - TensorRT's name
            profiles = [shapes[0][-1] for shapes in module.config.profiles]
            shown = []
            for index, largest in enumerate(profiles[:1] if faults.get("unlisted") else profiles):
                entries = inspected()
                at = getattr(self.execution_context, "profile", None), getattr(self.execution_context, "shape", None)
                if faults.get("typeless") or (faults.get("shapeless") and at != (index, largest)):
                    for entry in entries:
                        entry["Inputs"] = entry["Outputs"] = [{"Format/Datatype": "N/A due to dynamic shapes"}]
                for entry in entries if index else ():
                    entry["Name"] += f" [profile {index}]"
                shown += entries
            return json.dumps({"Layers": shown})

    @real.like("IExecutionContext", own=("shape", "profile"))
    class Context:
        """A context without memory, in which nothing can run."""

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            if "set_optimization_profile_async" in nothing:
                raise RuntimeError(REFUSED_PROFILE)
            self.profile = profile_index
            return True

        def set_input_shape(self, name: str, shape: Any) -> bool:
            assert name == "image"
            self.shape = shape
            return True

    def new_context() -> Context | None:
        return None if "create_execution_context" in nothing else Context()

    @real.like("ICudaEngine")
    class Engine:
        def create_engine_inspector(self) -> Inspector | None:
            return None if "create_engine_inspector" in nothing else Inspector()

        if major < 10:

            def create_execution_context_without_device_memory(self) -> Context | None:
                return new_context()

        else:

            def create_execution_context(self, strategy: Any = None) -> Context | None:
                assert strategy.name == "USER_MANAGED", "memory for nothing"
                return new_context()

        def get_tensor_shape(self, name: str) -> Dims:
            return Dims(-1, 8, 8, 3)

    # As TensorRT 8.6 and 10 write it. A convolution that is not INT8 may return INT8.
    def inspected() -> list[dict[str, Any]]:
        def entry(name: str) -> dict[str, Any]:
            is_full = name in faults.get("full", ())
            copied = "Thirty-two wide channel vectorized row major Int8 format"
            taken = {"fp16": "Channel major FP16 format", "int8": copied}[precision]
            return {
                "Name": "__myl_Conv" if faults.get("nameless") else f"{name} + relu",
                "LayerType": "CaskConvolution",
                "Inputs": [{"Format/Datatype": "Channel major FP32 format" if is_full else taken}],
                "Outputs": [{"Format/Datatype": copied}] if precision == "int8" else [],
                "ParameterType": "Convolution",
                "Weights": {"Type": "Float" if is_full else {"fp16": "Half", "int8": "Int8"}[precision], "Count": 9},
            }

        hidden = faults.get("hidden", ())
        entries = [entry(name) for name in NAMES if name not in hidden]
        if hidden:
            row = [{"Format/Datatype": "Row major linear FP32"}]
            name = "{ForeignNode[" + "...".join(hidden) + "]}"
            entries.append({"Name": name, "LayerType": "Myelin", "Inputs": row, "Outputs": row})
            copy = f"Reformatting CopyNode for Input Tensor 0 to {hidden[0]}"
            half = [{"Format/Datatype": "Row major linear FP16 format"}]
            entries.append({"Name": copy, "LayerType": "Reformat", "Inputs": half, "Outputs": half})
        return entries

    @real.like("Runtime")
    class Runtime:
        def __init__(self, log: Any) -> None:
            construct(self)

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
            engine = Engine()
            setattr(engine, "device_memory_size" if major < 11 else "device_memory_size_v2", 3 << 20)
            return None if faults.get("unloadable") else engine

    enumerations = (
        *("NetworkDefinitionCreationFlag", "ProfilingVerbosity", "LayerInformationFormat"),
        *("BuilderFlag", "TacticSource"),
        *(("ExecutionContextAllocationStrategy",) if major >= 10 else ()),
    )
    module.__dict__.update(
        {name: real.enumeration(name) for name in enumerations},
        __version__=version,
        LayerType=LayerType,
        ILogger=Logger,
        OnnxParser=Parser,
        Builder=Builder,
        Runtime=Runtime,
        float16=DataType.HALF,
        float32=DataType.FLOAT,
        calls=calls,
        layers=layers,
    )
    return module
