"""The part of TensorRT's Python API that runs engines, computing something simple on the memory of
a :class:`FakeCuda`.

``tests/kd_export/engine/fake_builder.py`` is the part that builds them.
"""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.kdx.runtime.tensorrt.fake_cuda import FakeCuda
from tests.kdx.runtime.tensorrt.real_api import VERSIONS, RealApi

HEIGHT, WIDTH, CHANNELS = 6, 8, 3
SHAPE = (HEIGHT, WIDTH, CHANNELS)
PLAN = b"a fake plan"


def expected_outputs(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return map and score as the fake engine computes them: every value of an image counts, and
    its place."""
    weights = np.arange(1, images[0].size + 1, dtype=np.float32).reshape(images.shape[1:])
    maps = (images * weights).sum(axis=3, dtype=np.float32)[:, ::2, ::2]
    return maps, maps.max(axis=(1, 2))[:, None]


REAL = RealApi(*VERSIONS)
DataType, TensorIOMode, Severity = (REAL.enumeration(name) for name in ("DataType", "TensorIOMode", "Severity"))


@REAL.like("Dims")
class Dims:
    """Like TensorRT's: it can be counted and indexed, and that is all."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> int:
        return self._sizes[index]


@REAL.like("IExecutionContext", own=("is_stream_capturable",))  # TensorRT for RTX
class FakeContext:
    """An execution context. Whatever changes it leaves work for the next plain enqueue; a capture
    before that fails."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._cuda = engine.cuda
        self._addresses: dict[str, int] = {}
        self._profile: int | None = None
        self._batch: int | None = None
        self._deferred = True
        self._version = 0
        weakref.finalize(self, engine.context_destroyed)

    def _changed(self) -> None:
        self._deferred = True
        self._version += 1

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if self._cuda.fails("set_optimization_profile_async"):
            return False
        self._profile = profile_index
        self._changed()
        self._cuda.queue(stream_handle, lambda: None)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image"
        if self._cuda.fails("set_input_shape"):
            self._engine.log("set_input_shape: no")
            return False
        assert self._profile is not None
        if shape[1:] != SHAPE or not 1 <= shape[0] <= self._engine.batches[self._profile]:
            raise self._cuda.misuse(f"shape {shape} in profile {self._profile}")
        self._batch = shape[0]
        self._changed()
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if self._cuda.fails("set_tensor_address"):
            return False
        if memory % 256:
            raise self._cuda.misuse("an address is not aligned as TensorRT demands")
        self._addresses[name] = memory
        self._changed()
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        assert name == "anomaly_map"
        assert self._batch is not None
        return Dims(self._batch, HEIGHT // 2, WIDTH // 2)

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self._cuda.is_current():
            raise self._cuda.misuse("TensorRT is called in a thread in which the context is not current")
        if self._cuda.fails("execute_async_v3"):
            self._engine.log("enqueue: no")
            return False
        if self._batch is None or len(self._addresses) != 3:
            raise self._cuda.misuse("TensorRT runs without shape or addresses")
        capturing = self._cuda.streams[stream_handle].captured is not None
        if capturing and self._deferred:
            raise self._cuda.misuse("capture before a plain enqueue")
        if capturing and self._engine.refuse_capture:
            self._engine.log("enqueue: not while the stream is capturing")
            return False
        self._deferred = False
        batch, addresses, version = self._batch, dict(self._addresses), self._version

        def layers() -> None:
            if version != self._version:
                raise self._cuda.misuse("a graph replays after its context was changed")
            self._engine.compute(batch, addresses)

        self._cuda.queue(stream_handle, layers)
        return True


@REAL.like(
    "ICudaEngine",
    own=("cuda", "batches", "refuse_capture", "contexts", "types", "logged", "log", "context_destroyed", "compute"),
)
class FakeEngine:
    """An engine with a profile for each batch."""

    def __init__(self, cuda: FakeCuda, batches: tuple[int, ...] = (1, 4)) -> None:
        self.cuda = cuda
        self.batches = batches
        self.refuse_capture = False
        self.contexts = 0
        self.types = {"image": DataType.UINT8, "anomaly_map": DataType.FLOAT, "anomaly_score": DataType.FLOAT}
        self.num_optimization_profiles = len(batches)
        self.num_io_tensors = 3
        self.logged: list[str] = []

    def log(self, message: str) -> None:
        self.logged.append(message)

    def context_destroyed(self) -> None:
        self.contexts -= 1
        self.cuda.contexts_destroyed.append(self.cuda.is_current())

    def create_execution_context(self) -> FakeContext | None:
        if self.cuda.fails("create_execution_context"):
            return None
        self.contexts += 1
        return FakeContext(self)

    def get_tensor_name(self, index: int) -> str:
        return list(self.types)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.types[name]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "image" else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> Dims:
        assert name == "image"
        return Dims(-1, *SHAPE)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        assert name == "image"
        return [Dims(count, *SHAPE) for count in (1, self.batches[profile_index], self.batches[profile_index])]

    def compute(self, batch: int, addresses: dict[str, int]) -> None:
        nbytes = batch * HEIGHT * WIDTH * CHANNELS
        images = self.cuda.device_bytes(addresses["image"], nbytes).reshape(batch, *SHAPE)
        for name, values in zip(("anomaly_map", "anomaly_score"), expected_outputs(images), strict=True):
            self.cuda.device_bytes(addresses[name], values.nbytes)[:] = np.frombuffer(values.tobytes(), np.uint8)


def fake_module(cuda: FakeCuda, batches: tuple[int, ...] = (1, 4), version: str = "11.4.0.106") -> Any:
    """Return a stand-in for the module ``tensorrt``; ``module.engines`` lists what it loaded."""

    class ILogger:
        pass

    ILogger.Severity = Severity
    engines: list[weakref.ref[FakeEngine]] = []

    @REAL.like("Runtime")
    class Runtime:
        def __init__(self, log: Any) -> None:
            if cuda.fails("Runtime"):
                log.log(Severity.WARNING, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._log = log

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakeEngine | None:
            assert cuda.is_current()
            if serialized_engine != PLAN or cuda.fails("deserialize_cuda_engine"):
                self._log.log(Severity.WARNING, "a warning")
                self._log.log(Severity.ERROR, "magic tag mismatch")
                return None
            engine = FakeEngine(cuda, batches)
            engine.log = lambda message: self._log.log(Severity.ERROR, message)
            engines.append(weakref.ref(engine))
            return engine

    return SimpleNamespace(
        __version__=version,
        ILogger=ILogger,
        Runtime=Runtime,
        DataType=DataType,
        TensorIOMode=TensorIOMode,
        engines=engines,
    )
