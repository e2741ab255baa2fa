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
from tests.kdx.runtime.tensorrt.real_api import RTX, VERSIONS, RealApi

HEIGHT, WIDTH, CHANNELS = 6, 8, 3
SHAPE = (HEIGHT, WIDTH, CHANNELS)
PLAN = b"a fake plan"
# What the bindings of TensorRT 8.6 to 11 raise: this method alone never returns False.
REFUSED_PROFILE = "Error in set optimization profile async."


def expected_outputs(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return map and score as the fake engine computes them: every value of an image counts, and
    its place."""
    weights = np.arange(1, images[0].size + 1, dtype=np.float32).reshape(images.shape[1:])
    maps = (images * weights).sum(axis=3, dtype=np.float32)[:, ::2, ::2]
    return maps, maps.max(axis=(1, 2))[:, None]


REAL, OLD, NEW, FOR_RTX = RealApi(*VERSIONS), RealApi("8.6.0"), RealApi(*VERSIONS[1:], RTX), RealApi(RTX)
DataType, TensorIOMode, Severity = (REAL.enumeration(name) for name in ("DataType", "TensorIOMode", "Severity"))
Allocation = NEW.enumeration("ExecutionContextAllocationStrategy")
Kernels = FOR_RTX.enumeration("DynamicShapesKernelSpecializationStrategy")

CONTEXT_BYTES = 3 * 256  # what a context of the fake engine needs to compute in


@REAL.like("Dims")
class Dims:
    """Like TensorRT's: it can be counted and indexed, and that is all."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> int:
        return self._sizes[index]


@REAL.like("IExecutionContext")
class FakeContext:
    """An execution context. Whatever changes it leaves work for the next plain enqueue; a capture
    before that fails.

    Args:
        engine: The engine.
        is_user_managed: Whether it takes its memory from the caller, and has none of its own.
    """

    def __init__(self, engine: BaseEngine, *, is_user_managed: bool = True) -> None:
        self._engine = engine
        self._is_user_managed = is_user_managed
        self._memory: int | None = None
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

    def _take_memory(self, memory: int, size: int) -> None:
        """Log what TensorRT logs against the memory; the call itself returns nothing."""
        if not self._is_user_managed:
            self._engine.log("setDeviceMemory: Context not created with user managed device memory, cannot set buffer")
        elif memory % 256:
            self._engine.log("setDeviceMemory: memory must be aligned on 256 bytes")
        elif size < CONTEXT_BYTES:
            self._engine.log(f"setDeviceMemoryV2: The provided memory size is too small. Provided {size}")
        else:
            self._memory = memory
            self._changed()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if self._cuda.fails("set_optimization_profile_async"):
            self._engine.log("set_optimization_profile: no")
            raise RuntimeError(REFUSED_PROFILE)
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
        if self._is_user_managed and self._memory is None:
            self._engine.log("IExecutionContext::setDeviceMemoryV2 should be called before enqueue/execute.")
            return False
        capturing = self._cuda.streams[stream_handle].captured is not None
        if capturing and self._deferred:
            raise self._cuda.misuse("capture before a plain enqueue")
        if capturing and self._engine.refuse_capture:
            self._engine.log("enqueue: not while the stream is capturing")
            return False
        self._deferred = False
        batch, addresses, version, memory = self._batch, dict(self._addresses), self._version, self._memory

        def layers() -> None:
            if version != self._version:
                raise self._cuda.misuse("a graph replays after its context was changed")
            if memory is not None:
                self._cuda.device_bytes(memory, CONTEXT_BYTES).fill(batch)
            self._engine.compute(batch, addresses)

        self._cuda.queue(stream_handle, layers)
        return True


@NEW.like("IExecutionContext")
class NewContext(FakeContext):
    """A context of TensorRT 10 and later."""

    def set_device_memory(self, memory: int, size: int) -> None:
        self._take_memory(memory, size)


@FOR_RTX.like("IExecutionContext")
class RtxContext(NewContext):
    """A context of TensorRT for RTX."""

    def is_stream_capturable(self, stream: int) -> bool:
        return not self._engine.refuse_capture


@OLD.like("IExecutionContext")
class OldContext(FakeContext):
    """A context of TensorRT 8.6."""

    @property
    def device_memory(self) -> object:
        return self._memory

    @device_memory.setter
    def device_memory(self, memory: int) -> None:
        self._take_memory(memory, CONTEXT_BYTES)


_OF_TESTS = ("cuda", "batches", "refuse_capture", "contexts", "types", "logged", "log", "context_destroyed", "compute")


@REAL.like("ICudaEngine", own=_OF_TESTS)
class BaseEngine:
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

    def _context(self, kind: type[FakeContext], **options: bool) -> FakeContext | None:
        if self.cuda.fails("create_execution_context"):
            return None
        self.contexts += 1
        return kind(self, **options)

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


@NEW.like("ICudaEngine", own=_OF_TESTS)
class FakeEngine(BaseEngine):
    """An engine of TensorRT 10 and 11."""

    device_memory_size_v2 = CONTEXT_BYTES

    def create_execution_context(self, strategy: Any = Allocation.STATIC) -> FakeContext | None:
        return self._context(NewContext, is_user_managed=strategy is Allocation.USER_MANAGED)


@OLD.like("ICudaEngine", own=_OF_TESTS)
class OldEngine(BaseEngine):
    """An engine of TensorRT 8.6."""

    device_memory_size = CONTEXT_BYTES

    def create_execution_context_without_device_memory(self) -> FakeContext | None:
        return self._context(OldContext)


@FOR_RTX.like("IRuntimeConfig")
class RuntimeConfig:
    """How TensorRT for RTX creates a context."""

    def __init__(self) -> None:
        self.dynamic_shapes_kernel_specialization_strategy = Kernels.LAZY
        self._allocation = Allocation.STATIC

    def set_execution_context_allocation_strategy(self, strategy: Any = Allocation.STATIC) -> None:
        self._allocation = strategy


@FOR_RTX.like("ICudaEngine", own=(*_OF_TESTS, "kernels"))
class RtxEngine(BaseEngine):
    """An engine of TensorRT for RTX, built to be captured: it requires user allocation."""

    device_memory_size_v2 = CONTEXT_BYTES

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.kernels: list[Any] = []

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, runtime_config: Any = None) -> FakeContext | None:
        config = runtime_config or RuntimeConfig()
        if config._allocation is not Allocation.USER_MANAGED:
            self.log(
                "Engine was built with BuilderFlag::kREQUIRE_USER_ALLOCATION. Execution context creation requires "
                "ExecutionContextAllocationStrategy::kUSER_MANAGED allocation strategy."
            )
            return None
        self.kernels.append(config.dynamic_shapes_kernel_specialization_strategy)
        return self._context(RtxContext)


def fake_module(
    cuda: FakeCuda, batches: tuple[int, ...] = (1, 4), version: str = "11.4.0.106", kind: type = FakeEngine
) -> Any:
    """Return a stand-in for the module ``tensorrt``; ``module.engines`` lists what it loaded.

    The engines are of ``kind``: ``FakeEngine``, ``OldEngine`` or ``RtxEngine``.
    """

    class ILogger:
        pass

    ILogger.Severity = Severity
    engines: list[weakref.ref[BaseEngine]] = []

    @REAL.like("Runtime")
    class Runtime:
        def __init__(self, log: Any) -> None:
            if cuda.fails("Runtime"):
                log.log(Severity.WARNING, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._log = log

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> BaseEngine | None:
            assert cuda.is_current()
            if serialized_engine != PLAN or cuda.fails("deserialize_cuda_engine"):
                self._log.log(Severity.WARNING, "a warning")
                self._log.log(Severity.ERROR, "magic tag mismatch")
                return None
            engine = kind(cuda, batches)
            engine.log = lambda message: self._log.log(Severity.ERROR, message)
            engines.append(weakref.ref(engine))
            return engine

    strategies = {} if kind is OldEngine else {"ExecutionContextAllocationStrategy": Allocation}
    if kind is RtxEngine:
        strategies["DynamicShapesKernelSpecializationStrategy"] = Kernels
    return SimpleNamespace(
        **strategies,
        __version__=version,
        ILogger=ILogger,
        Runtime=Runtime,
        DataType=DataType,
        TensorIOMode=TensorIOMode,
        engines=engines,
    )
