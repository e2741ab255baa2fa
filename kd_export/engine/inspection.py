"""What the inspector of TensorRT says about an engine that this machine can load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kd_export.engine.flavours import Flavour
from kd_export.engine.layers import engine_layers, profile_of
from kdx.bundle.engine_record import Layer
from kdx.bundle.graph_contract import INPUT
from kdx.errors import BackendError
from kdx.runtime.tensorrt.contexts import context_bytes, create_context, switch_profile
from kdx.runtime.tensorrt.cuda.created import created
from kdx.runtime.tensorrt.log import make_log

_DEFAULT_STREAM = 0


def inspect_plan(flavour: Flavour, plan: bytes, batches: Sequence[int]) -> tuple[list[Layer], int]:
    """Return the layers of an engine, and the bytes of device memory that its contexts need.

    Args:
        flavour: The TensorRT that built it.
        plan: The plan.
        batches: The largest batch of each optimisation profile.

    Raises:
        BackendError: TensorRT cannot load the plan here.
    """
    trt = flavour.module
    log = make_log(trt)
    runtime = created("a runtime", lambda: trt.Runtime(log), log.take)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError("the engine that was built cannot be loaded here", received=log.take(), fix="see kdx doctor")
    return _layers(trt, engine, batches, log), context_bytes(engine)


def _layers(trt: Any, engine: Any, batches: Sequence[int], log: Any) -> list[Layer]:
    """Return the layers of all profiles that the inspector lists."""
    inspector = created("an engine inspector", engine.create_engine_inspector, log.take)
    information = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    if "dynamic shapes" not in information:
        return engine_layers(information)
    # Formats are shown for the profile and the shapes of a context.
    sizes = tuple(engine.get_tensor_shape(INPUT))[1:]
    layers: list[Layer] = []
    for profile, batch in enumerate(batches):
        # It gets no memory, because nothing runs in it.
        context = created("an execution context", lambda: create_context(trt, engine), log.take)
        done = switch_profile(context, profile, _DEFAULT_STREAM)
        if not (done and context.set_input_shape(INPUT, (batch, *sizes))):
            raise BackendError(
                f"TensorRT cannot show the layers of profile {profile} for batches of {batch}",
                received=log.take(),
                fix="see kdx doctor",
            )
        inspector.execution_context = context
        shown = engine_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        layers += [layer for layer in shown if profile_of(layer) == profile]
    return layers
