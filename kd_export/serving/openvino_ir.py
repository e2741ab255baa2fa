"""A bundle's graph for Triton's OpenVINO backend, which has no option to compute in FP32.

By default, OpenVINO computes an FP32 graph in BF16 on CPUs that have it, and scores move by some
percent. Triton's backend passes on neither ``INFERENCE_PRECISION_HINT`` nor ``EXECUTION_MODE_HINT``
(``HINT_BF16`` only asks for BF16), so the precision is written into the model, in OpenVINO's own
format: every operation is marked to stay FP32. The model is then compiled exactly as the server
compiles it, and compared with the golden images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from kd_export.serving.config import Tensors, TensorSpec
from kd_export.serving.openvino_fp32 import mark_as_fp32, settle
from kdx.bundle.bundle import Bundle
from kdx.bundle.graph_contract import OUTPUTS
from kdx.errors import GateError
from kdx.runtime.backend import ClosesOnExit, Outputs
from kdx.runtime.backend_table import find_backend
from kdx.runtime.openvino.compilation import DEVICE, core, read_graph, require_bf16
from kdx.runtime.openvino.graph import with_fp32_island
from kdx.verification.comparison import describe_difference, describe_tolerances
from kdx.verification.golden import GoldenCheck
from kdx.verification.tolerances import tolerances_of

XML, WEIGHTS = "model.xml", "model.bin"


def write_ir(bundle: Bundle, precision: str, folder: Path) -> Tensors:
    """Write a bundle's graph for single images, as kdx's backend ``openvino`` computes it.

    Args:
        bundle: The bundle.
        precision: ``fp32``, ``bf16`` or ``int8``.
        folder: The folder for ``model.xml`` and ``model.bin``.

    Returns:
        Inputs and outputs, read back from what was written.

    Raises:
        BackendError: ``bf16``, and this CPU does not have it.
    """
    model = read_graph(bundle.graph_of(precision).read(), 1)
    xml = folder / XML
    if precision == "bf16":
        require_bf16()
        ov.serialize(with_fp32_island(core(), model), xml, folder / WEIGHTS)
    else:
        settle(model)
        ov.serialize(model, xml, folder / WEIGHTS)
        mark_as_fp32(xml)
    return _tensors_of(core().read_model(xml))


def require_same_decisions(bundle: Bundle, precision: str, folder: Path, parameters: Mapping[str, str]) -> None:
    """Compare what was written, compiled as Triton compiles it, with the golden images.

    Args:
        bundle: The bundle.
        precision: The precision of the model that was written.
        folder: The folder that it was written to.
        parameters: The parameters of the server's configuration.

    Raises:
        GateError: Scores, maps or decisions are not the reference's.
    """
    served = _Served(folder / XML, parameters)
    (comparison,) = GoldenCheck(bundle).compare(served, precision, runtime=find_backend("openvino").runtime)
    if not comparison.passed:
        raise GateError(
            f"Triton's OpenVINO backend would not decide what was trained ({precision})",
            expected=describe_tolerances(tolerances_of(bundle.manifest, precision)),
            received=describe_difference(comparison),
            fix="nothing was written; serve another precision, or take `backend='onnxruntime'`",
        )


def properties_of(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the properties with which Triton's backend compiles a model of these parameters."""
    known = ("PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_NUM_THREADS")
    properties: dict[str, Any] = {name: parameters[name] for name in known if name in parameters}
    if parameters.get("HINT_BF16") == "YES":
        properties["INFERENCE_PRECISION_HINT"] = "bf16"
    return {**properties, "ALLOW_AUTO_BATCHING": False}


class _Served(ClosesOnExit):
    """A model as Triton's backend runs it: one image at a time."""

    name = "triton-openvino"

    def __init__(self, xml: Path, parameters: Mapping[str, str]) -> None:
        model = core().read_model(xml)
        self._request = core().compile_model(model, DEVICE, properties_of(parameters)).create_infer_request()

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        results = []
        for image in images:
            self._request.infer({0: image[None]})
            results.append([self._request.get_tensor(name).data.copy() for name in OUTPUTS])
        maps, scores = zip(*results, strict=True)
        return Outputs(np.concatenate(maps), np.concatenate(scores))

    def close(self) -> None:
        self._request = None


def _tensors_of(model: Any) -> Tensors:
    kinds = {"u8": "TYPE_UINT8", "f32": "TYPE_FP32"}

    def read(values: Any) -> dict[str, TensorSpec]:
        found = {}
        for value in values:
            kind = value.get_element_type().get_type_name()
            shape = tuple(dim.get_length() if dim.is_static else None for dim in value.get_partial_shape())
            found[value.get_any_name()] = TensorSpec(kinds.get(kind, kind), shape)
        return found

    return Tensors(read(model.inputs), read(model.outputs))
