"""Reading what an inspector says, in the forms of several TensorRT versions."""

from __future__ import annotations

import json

import pytest

from kd_export.engine.layers import count_layers, engine_layers, require_half_convolutions
from kdx.bundle.engine_record import Layer
from kdx.errors import GateError

# As TensorRT 8.6 and 10 write it: formats in words, fused names joined by " + ".
TEN = {
    "Layers": [
        {
            "Name": "pair.teacher.conv1/Conv + pair.teacher.act1/Relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            "ParameterType": "Convolution",
        },
        {
            "Name": "{ForeignNode[tail/Mul...tail/ReduceMax]}",
            "LayerType": "Myelin",
            "Inputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "z", "Format/Datatype": "Row major linear FP32"}],
        },
    ],
    "Bindings": ["image", "anomaly_map"],
}
# As TensorRT 11 may: types by name, the nodes in the metadata.
ELEVEN = {
    "Layers": [
        {
            "Name": "__myl_Conv_myl0_1",
            "LayerType": "conv",
            "Inputs": [{"Name": "x", "Datatype": "Half"}],
            "Outputs": [{"Name": "y", "Datatype": "Half"}],
            "Metadata": "[ONNX Layer: pair.teacher.conv1/Conv]\u001f[ONNX Layer: pair.teacher.act1/Relu]",
        }
    ],
    "I/O Tensors": [],
}
WANTED = Layer(name="pair.teacher.conv1/Conv", kind="convolution", precision="fp16")


@pytest.mark.parametrize("information", [TEN, ELEVEN])
def test_fp16_convolutions_are_seen(information) -> None:
    layers = engine_layers(json.dumps(information))
    assert layers[0].precision == "fp16"
    require_half_convolutions([WANTED], layers)
    assert count_layers(layers)["fp16 convolutions"] == 1


def test_a_name_that_only_begins_alike_is_another() -> None:
    layers = [Layer(name="pair.teacher.conv1/Conv_2", kind="convolution", precision="fp16")]
    with pytest.raises(GateError, match="cannot be confirmed"):
        require_half_convolutions([WANTED], layers)


def test_a_network_without_fp16_is_refused() -> None:
    with pytest.raises(GateError, match="no FP16 convolution"):
        require_half_convolutions([Layer(name="a/Conv", kind="convolution", precision="fp32")], [])


def test_names_alone_prove_nothing() -> None:
    with pytest.raises(GateError, match="1 of 1"):
        require_half_convolutions([WANTED], engine_layers(json.dumps({"Layers": [WANTED.name]})))
