"""The part of TensorRT's Python API that builds engines, in any version: it records what it is
asked to do.

``tests/kdx/runtime/tensorrt/fake_runtime.py`` is the part that runs them.
"""

from __future__ import annotations

import enum
import json
from types import ModuleType, SimpleNamespace
from typing import Any


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    UINT8 = 7


class LayerType(enum.Enum):
    CONVOLUTION = 0
    MATRIX_MULTIPLY = 1
    CAST = 2
    DEQUANTIZE = 3


class Tensor:
    def __init__(self, name: str, dtype: DataType, shape: tuple[int, ...] = (-1, 8, 8, 3)) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape


class FakeLayer:
    def __init__(self, name: str, kind: LayerType, source: Tensor, target: DataType) -> None:
        self.name, self.type = name, kind
        self.source, self.output = source, Tensor(f"{name}_output", target)
        self.num_outputs = 1
        self.precision: DataType | None = None
        self.output_type: DataType | None = None

    def get_input(self, index: int) -> Tensor:
        return self.source

    def get_output(self, index: int) -> Tensor:
        return self.output

    def set_output_type(self, index: int, dtype: DataType) -> None:
        self.output_type = dtype


NAMES = ("pair.teacher.conv1/Conv", "pair.student.conv1/Conv", "pair.student.conv10/Conv")


def layers_of(precision: str) -> list[FakeLayer]:
    """Return the layers of a network whose convolutions all have a precision."""
    layers = [FakeLayer("preprocess/Cast", LayerType.CAST, Tensor("image", DataType.UINT8), DataType.FLOAT)]
    kind = DataType.HALF if precision == "fp16" else DataType.FLOAT
    for name in NAMES:
        source = Tensor("feature", kind)
        if precision == "int8":
            layers.append(FakeLayer(f"{name}.dq", LayerType.DEQUANTIZE, Tensor("q", DataType.INT8), DataType.FLOAT))
            source = layers[-1].output
        layers.append(FakeLayer(name, LayerType.CONVOLUTION, source, kind))
    sums = FakeLayer("tail/MatMul", LayerType.MATRIX_MULTIPLY, Tensor("feature", DataType.FLOAT), DataType.FLOAT)
    return [*layers, sums]


def make(version: str = "10.16.1", precision: str = "fp16", **faults: Any) -> ModuleType:
    """Return a module like ``tensorrt``.

    Args:
        version: 8.6 has no strong typing.
        precision: The precision of the network's convolutions.
        **faults: ``refuse`` (parser), ``fail`` (build), ``full`` (names of convolutions that the
            engine runs in FP32), ``nameless`` (the inspector shows no names), ``shapeless`` (it
            shows no formats, until it has a context with a shape), ``unloadable``, ``nothing``
            (names of what is not created: a class raises what the real bindings do, a method
            returns None or what stands for failure).
    """
    major = int(version.split(".")[0])
    module = ModuleType("tensorrt")
    calls: list[Any] = []
    nothing = faults.get("nothing", ())

    def construct(kind: object) -> None:
        if type(kind).__name__ in nothing:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    layers = layers_of(precision)

    class Logger:
        ERROR = 1

        def __init__(self) -> None:
            pass

    class Network:
        num_layers = len(layers)

        def get_layer(self, index: int) -> FakeLayer:
            return layers[index]

        def get_input(self, index: int) -> Tensor:
            return Tensor("image", DataType.UINT8)

    class Parser:
        num_errors = 1

        def __init__(self, network: Any, log: Any) -> None:
            construct(self)

        def parse(self, data: bytes) -> bool:
            calls.append(("parse", len(data)))
            return not faults.get("refuse")

        def get_error(self, index: int) -> str:
            return "node 3: Resize(antialias=1) is not supported"

    class Config:
        def __init__(self) -> None:
            self.flags: list[str] = ["tf32"]  # as TensorRT has it
            self.profiles: list[Any] = []

        def set_flag(self, flag: str) -> None:
            self.flags.append(flag)

        def clear_flag(self, flag: str) -> None:
            self.flags.remove(flag)

        def add_optimization_profile(self, profile: Any) -> int:
            self.profiles.append(profile.shapes)
            return -1 if "add_optimization_profile" in nothing else len(self.profiles) - 1

        def create_timing_cache(self, data: bytes) -> Any:
            return None if data == b"foreign" else SimpleNamespace(serialize=lambda: data + b"+")

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            return True

    class Profile:
        def __init__(self) -> None:
            self.shapes: list[Any] = []

        def set_shape(self, name: str, *shapes: Any) -> None:
            self.shapes.append((name, *shapes))

    class Builder:
        def __init__(self, log: Any) -> None:
            if "Builder" in nothing:
                log.log(Logger.ERROR, "CUDA initialization failure with error: 35")
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
                self.log.log(Logger.ERROR, "out of device memory")
                return None
            return b"plan"

    class Inspector:
        execution_context: Any = None

        def get_engine_information(self, form: str) -> str:
            shown = inspected()
            if faults.get("shapeless") and getattr(self.execution_context, "shape", None) != ("image", (1, 8, 8, 3)):
                for entry in shown:
                    entry["Inputs"] = entry["Outputs"] = [{"Format/Datatype": "N/A due to dynamic shapes"}]
            return json.dumps({"Layers": shown})

    class Context:
        def set_input_shape(self, *shape: Any) -> None:
            self.shape = shape

    class Engine:
        def create_engine_inspector(self) -> Inspector | None:
            return None if "create_engine_inspector" in nothing else Inspector()

        def create_execution_context(self) -> Context | None:
            return None if "create_execution_context" in nothing else Context()

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (-1, 8, 8, 3)

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

        return [entry(name) for name in NAMES]

    class Runtime:
        def __init__(self, log: Any) -> None:
            construct(self)

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            engine = Engine()
            setattr(engine, "device_memory_size" if major < 11 else "device_memory_size_v2", 3 << 20)
            return None if faults.get("unloadable") else engine

    flags = {} if major >= 11 else {"FP16": "fp16", "INT8": "int8", "OBEY_PRECISION_CONSTRAINTS": "obey"}
    typed = {"STRONGLY_TYPED": 1} if major >= 10 else {"EXPLICIT_BATCH": 0}
    module.__dict__.update(
        __version__=version,
        NetworkDefinitionCreationFlag=SimpleNamespace(**typed),
        BuilderFlag=SimpleNamespace(TF32="tf32", REQUIRE_USER_ALLOCATION="user", **flags),
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        ILogger=Logger,
        OnnxParser=Parser,
        Builder=Builder,
        Runtime=Runtime,
        float32=DataType.FLOAT,
        calls=calls,
        layers=layers,
    )
    return module
