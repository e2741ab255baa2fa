"""Reading what inspectors and builders say, in the forms of several TensorRT versions."""

from __future__ import annotations

import json

import pytest

from kd_export.engine.layers import (
    count_layers,
    describe_layers,
    engine_layers,
    logged_layers,
    require_convolutions,
)
from kdx.bundle.engine_record import Layer
from kdx.errors import GateError
from tests.engines import make_record

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
    require_convolutions([WANTED], layers, "fp16")
    assert count_layers(layers)["fp16 convolutions"] == 1


def test_a_name_that_only_begins_alike_is_another() -> None:
    layers = [Layer(name="pair.teacher.conv1/Conv_2", kind="convolution", precision="fp16")]
    with pytest.raises(GateError, match="cannot be confirmed"):
        require_convolutions([WANTED], layers, "fp16")


def test_a_network_without_fp16_is_refused() -> None:
    with pytest.raises(GateError, match="no FP16 convolution"):
        require_convolutions([Layer(name="a/Conv", kind="convolution", precision="fp32")], [], "fp16")


def test_names_alone_prove_nothing() -> None:
    with pytest.raises(GateError, match="cannot be confirmed"):
        require_convolutions([WANTED], engine_layers(json.dumps({"Layers": [WANTED.name]})), "fp16")


# INT8

INT8 = Layer(name="pair.student.conv/Conv", kind="convolution", precision="int8")
# As the builder of TensorRT for RTX 1.7 logs a convolution with its dequantisers, and what follows.
LOG = """Layers:
Name: pair.student.conv/Conv_U45_myl0_3, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [1,8,80,80], \
Strides: [51200,1,640,8], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], \
Constants: [ { Name: w, Dimensions: [16,8,3,3], Strides: [72,1,24,8], Datatype: Int8, Format: (NHWC) Channel major \
format }, { Name: s, Dimensions: [1,16,1,1], Datatype: Float, Format: (NHWC) Channel major format }], Outputs: [ \
{ Name: y, Dimensions: [1,16,40,40], Datatype: Float, Format: (NHWC) Channel major format }], \
TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: pair.student.conv/Conv]\x1f[ONNX Layer: dq]
Name: __myl_MulAddRelu_myl0_4, LayerType: kgen, Inputs: [ { Name: y, Dimensions: [1,16,40,40], Datatype: Float, \
Format: (NHWC) Channel major format }], Constants: [], Outputs: [ { Name: z, Dimensions: [1,16,40,40], \
Datatype: Float, Format: (NHWC) Channel major format }], TacticName: __myl_MulAddRelu_0x9, StreamId: 0, \
Metadata: [ONNX Layer: pair.student.conv/Conv]\x1f[ONNX Layer: pair.student/Relu]
Name: __mye9949_myl0_61, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, \
EventId: 8, Metadata:\x20

I/O Tensors:
 Name: image, IOMode: Input, DataType: UInt8, Dimensions: [1,160,160,1]"""


def test_the_builder_s_log_tells_the_layers() -> None:
    layers = logged_layers(LOG)
    assert [(layer.kind, layer.precision) for layer in layers] == [
        ("correlation", "int8"), ("kgen", "fp32"), ("signal", ""),
    ]  # fmt: skip
    require_convolutions([INT8], layers, "int8")
    assert count_layers(layers) == {"int8 convolutions": 1, "other layers": 2}
    assert not logged_layers("Convolution output dimensions: (-1, 8, 80, 80)")


@pytest.mark.parametrize(
    ("tensor", "said"),
    [("{ Name: x", "fp32+int8"), ("{ Name: w", "fp32+int8")],  # the input dequantised, or the weights
)
def test_a_convolution_on_dequantised_values_is_named(tensor, said) -> None:
    before, after = LOG.split(tensor, 1)
    log = before + tensor + after.replace("Int8", "Float", 1)
    with pytest.raises(GateError, match="1 of 1 convolutions are not INT8") as caught:
        require_convolutions([INT8], logged_layers(log), "int8")
    assert caught.value.received == f"{INT8.name} ({said})"


def cask(**changed: object) -> str:
    """Return a layer as the inspector of TensorRT 8.6 and 10 writes it."""
    entry = {
        "Name": f"{INT8.name} + pair.student/Add + pair.student/Relu",
        "LayerType": "CaskConvolution",
        "Inputs": [
            {"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"},
            {"Name": "shortcut", "Format/Datatype": "Row major linear FP32"},
        ],
        "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
        "ParameterType": "Convolution",
        "Weights": {"Type": "Int8", "Count": 131072},
        **changed,
    }
    copy = {
        "Name": f"Reformatting CopyNode for Input Tensor 0 to {INT8.name}",
        "LayerType": "Reformat",
        "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP32 format"}],
        "Outputs": [{"Name": "x", "Format/Datatype": "Channel major Int8 format"}],
        "ParameterType": "Reformat",
    }
    return json.dumps({"Layers": [copy, entry]})


def test_int8_convolutions_are_seen_by_input_and_weights() -> None:
    layers = engine_layers(cask())
    assert [layer.precision for layer in layers] == ["fp32+int8", "int8"]
    require_convolutions([INT8], layers, "int8")
    # Of a range of batches, formats are unknown; that of the weights is not.
    require_convolutions([INT8], engine_layers(cask(Inputs=[{"Format/Datatype": "N/A due to dynamic shapes"}])), "int8")
    for changed in (
        {"Weights": {"Type": "Float", "Count": 131072}},
        {"Inputs": [{"Format/Datatype": "Row major linear FP32"}]},
    ):
        with pytest.raises(GateError, match="1 of 1"):
            require_convolutions([INT8], engine_layers(cask(**changed)), "int8")


CONV = "pair.teacher.conv2/Conv"
HALF, FULL, BYTE = "Channel major FP16 format", "Channel major FP32 format", "Channel major Int8 format"
UNKNOWN = "N/A due to dynamic shapes"


def shown_layer(
    name: str = CONV, taken: str = HALF, given: str = "", weights: str = "", kind: str = "Convolution"
) -> dict:
    return {
        "Name": name,
        "LayerType": f"Cask{kind}",
        "ParameterType": kind,
        "Inputs": [{"Format/Datatype": taken}],
        "Outputs": [{"Format/Datatype": given or taken}],
        **({"Weights": {"Type": weights}} if weights else {}),
    }


def check(precision: str, *entries: dict, names: tuple[str, ...] = (CONV,), **options: object) -> list[str]:
    wanted = [Layer(name=name, kind="convolution", precision=precision) for name in names]
    return require_convolutions(wanted, engine_layers(json.dumps({"Layers": entries})), precision, **options)


@pytest.mark.parametrize(
    ("precision", "shown"),
    [
        ("fp16", {"taken": UNKNOWN, "weights": "Half"}),
        ("int8", {"taken": UNKNOWN, "weights": "Int8"}),
        ("fp16", {"given": FULL}),  # a convolution may return another type
        ("fp16", {"given": FULL, "weights": "Half"}),
        ("int8", {"taken": BYTE, "given": FULL, "weights": "Int8"}),
        ("fp16", {"taken": HALF, "kind": "GemmConvolution"}),
    ],
)
def test_operands_prove_a_precision(precision, shown) -> None:
    assert check(precision, shown_layer(**shown)) == []


@pytest.mark.parametrize(
    ("precision", "shown", "said"),
    [
        ("fp16", {"taken": FULL, "given": HALF, "weights": "Float"}, "fp32"),
        ("fp16", {"taken": FULL, "given": HALF}, "fp32"),
        ("fp16", {"taken": UNKNOWN, "weights": "Float"}, "fp32"),
        ("fp16", {"taken": "Row major linear BFloat16 format"}, "bf16"),
        ("int8", {"taken": BYTE, "weights": "Float"}, "fp32+int8"),
        ("int8", {"taken": BYTE, "given": FULL}, "fp32+int8"),
    ],
)
def test_other_operands_are_named(precision, shown, said) -> None:
    with pytest.raises(GateError, match=f"1 of 1 convolutions are not {precision.upper()}") as caught:
        check(precision, shown_layer(**shown), types_decide=True)
    assert caught.value.received == f"{CONV} ({said})"


@pytest.mark.parametrize(
    "entry",
    [
        shown_layer(f"Reformatting CopyNode for Input Tensor 0 to {CONV}", kind="Reformat"),
        shown_layer("{ForeignNode[" + CONV + "...tail/ReduceMax]}", kind="Myelin"),
        shown_layer(taken=UNKNOWN),
        shown_layer(taken="Unknown format"),
    ],
)
def test_what_is_not_shown_is_no_proof(entry) -> None:
    for options in ({}, {"types_decide": True}):
        with pytest.raises(GateError, match="the engine shows none of the network"):
            check("fp16", entry, **options)
    seen, names = shown_layer("pair.teacher.conv1/Conv"), (CONV, "pair.teacher.conv1/Conv")
    assert check("fp16", seen, entry, names=names, types_decide=True) == [CONV]
    with pytest.raises(GateError, match="1 of 2 convolutions are not shown") as caught:
        check("fp16", seen, entry, names=names)
    assert caught.value.received == CONV


def test_every_profile_that_is_listed_is_checked() -> None:
    first, second = shown_layer(), shown_layer(f"{CONV} [profile 1]")
    assert check("fp16", first, second, profiles=2) == []
    assert check("fp16", first, profiles=2) == [f"{CONV} [profile 1]"]
    with pytest.raises(GateError, match="1 of 2 convolutions are not FP16") as caught:
        check("fp16", first, shown_layer(f"{CONV} [profile 1]", FULL), profiles=2)
    assert caught.value.received == f"{CONV} [profile 1] (fp32)"
    with pytest.raises(GateError, match="1 of 2 convolutions are not shown"):
        check("fp16", first, shown_layer("other/Conv [profile 1]"), profiles=2)


def test_layers_are_described_with_what_they_do_not_show() -> None:
    layers = engine_layers(
        json.dumps({"Layers": [shown_layer(), shown_layer(taken=UNKNOWN), shown_layer("copy", kind="Reformat")]})
    )
    record = make_record(layers=layers)
    counts = "1 fp16 convolutions, 1 other layers, 1 untyped convolutions (by the engine's inspector)"
    assert describe_layers(record) == counts
    record = make_record(layers=layers, not_shown=[CONV, f"{CONV} [profile 1]"])
    assert describe_layers(record) == f"{counts}; 2 convolutions are not shown: {CONV}, {CONV} [profile 1]"


def test_transposed_convolutions_need_not_be_int8() -> None:
    transposed = Layer(name="pair.decoder/ConvTranspose", kind="deconvolution", precision="int8")
    built = [Layer(name=transposed.name, kind="deconv", precision="fp32")]
    require_convolutions([INT8, transposed], [*built, *engine_layers(cask())], "int8")
    with pytest.raises(GateError, match="no INT8 convolution"):
        require_convolutions([transposed], built, "int8")
