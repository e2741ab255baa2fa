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
    UINT8 = 7


class LayerType(enum.Enum):
    CONVOLUTION = 0
    MATRIX_MULTIPLY = 1
    CAST = 2


class Tensor:
    def __init__(self, name: str, dtype: DataType, shape: tuple[int, ...] = (-1, 8, 8, 3)) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape


class FakeLayer:
    def __init__(self, name: str, kind: LayerType, source: DataType, target: DataType) -> None:
        self.name, self.type = name, kind
        self.source, self.output = Tensor("in", source), Tensor("out", target)
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


def make(version: str = "10.16.1", **faults: Any) -> ModuleType:
    """Return a module like ``tensorrt``.

    Args:
        version: 8.6 has no strong typing.
        **faults: ``refuse`` (parser), ``fail`` (build), ``full`` (names of convolutions that the
            engine runs in FP32), ``nameless`` (the inspector shows no names), ``unloadable``,
            ``nothing`` (names of what is not created: a class raises what the real bindings do, a
            method returns None or what stands for failure).
    """
    major = int(version.split(".")[0])
    module = ModuleType("tensorrt")
    half = DataType.HALF
    calls: list[Any] = []
    nothing = faults.get("nothing", ())

    def construct(kind: object) -> None:
        if type(kind).__name__ in nothing:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    layers = [FakeLayer("preprocess/Cast", LayerType.CAST, DataType.UINT8, DataType.FLOAT)]
    layers += [FakeLayer(name, LayerType.CONVOLUTION, half, half) for name in NAMES]
    layers += [FakeLayer("tail/MatMul", LayerType.MATRIX_MULTIPLY, DataType.FLOAT, DataType.FLOAT)]

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

    class Engine:
        def create_engine_inspector(self) -> Any:
            if "create_engine_inspector" in nothing:
                return None
            return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": inspected()}))

    def inspected() -> list[dict[str, Any]]:
        def entry(name: str) -> dict[str, Any]:
            text = "Channel major FP32 format" if name in faults.get("full", ()) else "Channel major FP16 format"
            shown = "__myl_Conv" if faults.get("nameless") else f"{name} + relu"
            return {"Name": shown, "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": text}], "Outputs": []}

        return [entry(name) for name in NAMES]

    class Runtime:
        def __init__(self, log: Any) -> None:
            construct(self)

        def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
            engine = Engine()
            setattr(engine, "device_memory_size" if major < 11 else "device_memory_size_v2", 3 << 20)
            return None if faults.get("unloadable") else engine

    flags = {} if major >= 11 else {"FP16": "fp16", "OBEY_PRECISION_CONSTRAINTS": "obey"}
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
