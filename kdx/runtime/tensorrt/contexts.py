"""Execution contexts of an engine, which compute in device memory of the caller.

TensorRT would otherwise give each context memory for the largest of all optimisation profiles. One
block serves the contexts of all profiles as long as their calls take turns: TensorRT uses it from
an enqueue until its work is done, and keeps nothing in it. An engine that TensorRT for RTX built
for CUDA graphs takes no other memory.
"""

from __future__ import annotations

from typing import Any

from kdx.runtime.tensorrt.cuda.created import created


def create_context(trt: Any, engine: Any) -> Any:
    """Create an execution context without memory; see :func:`give_memory`.

    TensorRT for RTX compiles its kernels at once. By default, it runs a slow kernel until its
    compiler has finished, and a CUDA graph that is captured meanwhile would keep the slow kernel.

    Args:
        trt: The module ``tensorrt`` or ``tensorrt_rtx``.
        engine: The engine.

    Returns:
        The context, or None if TensorRT cannot create it.
    """
    allocation = getattr(trt, "ExecutionContextAllocationStrategy", None)
    if allocation is None:  # TensorRT 8.6
        return engine.create_execution_context_without_device_memory()
    kernels = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if kernels is None:
        return engine.create_execution_context(allocation.USER_MANAGED)
    config = created("a runtime configuration", engine.create_runtime_config)
    config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
    config.set_execution_context_allocation_strategy(allocation.USER_MANAGED)
    return engine.create_execution_context(config)


def switch_profile(context: Any, profile: int, stream: int) -> bool:
    """Switch an execution context to an optimisation profile; return whether TensorRT accepts it.

    Args:
        context: The context.
        profile: The index of the profile.
        stream: The CUDA stream on which the work of it is queued.
    """
    try:
        return bool(context.set_optimization_profile_async(profile, stream))
    except RuntimeError:  # the bindings of TensorRT 8.6 to 11 never return False here; the log says why
        return False


def context_bytes(engine: Any) -> int:
    """Return the size of the memory that a context of an engine needs, whatever its profile."""
    # TensorRT 11 and TensorRT for RTX have only the first, 8.6 and 10.0 only the second.
    name = "device_memory_size_v2" if hasattr(engine, "device_memory_size_v2") else "device_memory_size"
    return int(getattr(engine, name))


def give_memory(context: Any, pointer: int, nbytes: int) -> None:
    """Give an execution context its memory; TensorRT logs it if it does not take it.

    Args:
        context: The context.
        pointer: The address, a multiple of 256.
        nbytes: The size, at least :func:`context_bytes` of the engine.
    """
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(pointer, nbytes)
    else:  # TensorRT 8.6 and 10.0
        context.device_memory = pointer
