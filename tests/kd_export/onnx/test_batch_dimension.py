"""Graphs are traced at one batch size and take any: what PyTorch's own symbolic batch size gives is
the reference, and graphs that depend on the size otherwise are traced with it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from kd_export.graph import Combine, FusedDetector, MapSpec, PairSpec, Tap
from kd_export.onnx import onnx_export
from kd_export.onnx.batch_dimension import TRACED_BATCH, set_batch
from kd_export.onnx.onnx_export import export_onnx
from kd_train.methods import find_method
from kd_train.recipes import load_recipe
from kdx.bundle.checked_files import Graph
from kdx.imaging.images import InputSpec
from kdx.verification.tolerances import FP32
from tests.conftest import BACKBONE, BLUR, CAMERA, METHODS, SIZE
from tests.images import solar_cells
from tests.pairs import fuse_pair, make_pair


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes at which graphs were traced, since the test began."""
    sizes = []
    trace = onnx_export._traced
    monkeypatch.setattr(
        onnx_export, "_traced", lambda detector, batch, *symbol: sizes.append(batch) or trace(detector, batch, *symbol)
    )
    return sizes


def graph(*nodes: onnx.NodeProto, **constants: object) -> ModelProto:
    """A graph from ``images`` (N x 4 x 6) to ``scores`` (N x 1), traced."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [TRACED_BATCH, *sizes])
        for name, sizes in (("images", (4, 6)), ("scores", (1,)))
    ]
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    return helper.make_model(
        helper.make_graph(nodes, "graph", values[:1], values[1:], tensors),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def largest(of: str) -> onnx.NodeProto:
    return helper.make_node("ReduceMax", [of, "axes"], ["scores"], keepdims=1)


FLAT = helper.make_node("Reshape", ["images", "sizes"], ["flat"])
AXES = np.array([1], dtype=np.int64)


@pytest.mark.parametrize(("batch", "size", "sizes"), [(None, "N", [-1, 24]), (1, 1, [1, 24]), (2, 2, [2, 24])])
def test_the_batch_of_inputs_outputs_and_reshapes_is_replaced(batch, size, sizes) -> None:
    model = graph(FLAT, largest("flat"), sizes=np.array([TRACED_BATCH, 24]), axes=AXES)
    assert set_batch(model, batch)
    onnx.checker.check_model(model, full_check=True)
    for value in (model.graph.input[0], model.graph.output[0]):
        first = value.type.tensor_type.shape.dim[0]
        assert (first.dim_param or first.dim_value) == size
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == sizes


@pytest.mark.parametrize(
    "model",
    [
        graph(  # images and rows in one dimension
            helper.make_node("Reshape", ["images", "sizes"], ["rows"]),
            helper.make_node("ReduceMax", ["rows", "axes"], ["of_rows"], keepdims=0),
            helper.make_node("Reshape", ["of_rows", "back"], ["flat"]),
            largest("flat"),
            sizes=np.array([TRACED_BATCH * 4, 6]),
            back=np.array([TRACED_BATCH, 4]),
            axes=AXES,
        ),
        graph(  # a constant of one value an image
            FLAT,
            helper.make_node("Add", ["flat", "each"], ["sum"]),
            largest("sum"),
            sizes=np.array([TRACED_BATCH, 24]),
            each=np.ones((TRACED_BATCH, 1), np.float32),
            axes=AXES,
        ),
        graph(  # an expansion to the traced size, which a batch of one image would pass
            helper.make_node("Expand", ["images", "full"], ["all"]),
            helper.make_node("Reshape", ["all", "sizes"], ["flat"]),
            largest("flat"),
            full=np.array([TRACED_BATCH, 4, 6]),
            sizes=np.array([TRACED_BATCH, 24]),
            axes=AXES,
        ),
        graph(  # the input's first dimension is not that of the outputs
            helper.make_node("Transpose", ["images"], ["turned"], perm=[1, 0, 2]),
            helper.make_node("Reshape", ["turned", "sizes"], ["flat"]),
            helper.make_node("ReduceMax", ["flat", "axes"], ["of_all"], keepdims=1),
            helper.make_node("Slice", ["of_all", "none", "one"], ["scores"]),
            sizes=np.array([4, TRACED_BATCH * 6]),
            none=np.array([0]),
            one=np.array([1]),
            axes=AXES,
        ),
    ],
    ids=["merged", "constant", "expanded", "mixed"],
)
@pytest.mark.parametrize("batch", [None, 1])
def test_other_uses_of_the_traced_size_are_refused(model: ModelProto, batch: int | None) -> None:
    copy = ModelProto()
    copy.CopyFrom(model)
    assert not set_batch(copy, batch)


@pytest.mark.parametrize("sizes", [[TRACED_BATCH, -1], [TRACED_BATCH, 1, -1]])
def test_a_size_that_was_left_open_is_that_of_the_trace(sizes: list[int]) -> None:
    """With 22 values an image, 11 times as many are 11 rows of any batch: -1 would hide it."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [TRACED_BATCH, *rest])
        for name, rest in (("images", (2, 11)), ("scores", (1,) * (len(sizes) - 1)))
    ]
    tensors = [numpy_helper.from_array(np.array(sizes), "sizes")]
    tensors.append(numpy_helper.from_array(np.array([len(sizes) - 1]), "axes"))
    made = helper.make_graph([FLAT, largest("flat")], "graph", values[:1], values[1:], tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert set_batch(model, None)
    assert numpy_helper.to_array(model.graph.initializer[0]).tolist() == [-1, *sizes[1:-1], 22]


def test_one_open_size_of_two_values_is_not_known() -> None:
    model = graph(
        helper.make_node("Reshape", ["images", "sizes"], ["flat"]),
        helper.make_node("Concat", ["flat", "flat"], ["twice"], axis=1),
        helper.make_node("Reshape", ["twice", "sizes"], ["again"]),
        largest("again"),
        sizes=np.array([TRACED_BATCH, -1]),
        axes=AXES,
    )
    assert not set_batch(model, None)


@pytest.mark.parametrize("what", ["contradictory", "unknown"])
def test_shapes_that_cannot_be_inferred_show_nothing(what: str) -> None:
    """A check that saw no shapes has not found that they follow the batch size."""
    if what == "contradictory":  # at every size, the traced one too
        node = helper.make_node("Reshape", ["images", "sizes"], ["flat"])
        model = graph(node, largest("flat"), sizes=np.array([TRACED_BATCH, 23]), axes=AXES)
    else:  # how many values are not zero is known only when the graph runs
        nodes = (
            helper.make_node("NonZero", ["images"], ["places"]),
            helper.make_node("Cast", ["places"], ["as_float"], to=1),
        )
        model = graph(*nodes, FLAT, largest("flat"), sizes=np.array([TRACED_BATCH, 24]), axes=AXES)
    assert not set_batch(model, None)


def detector_of(method: str, image: tuple[int, int]) -> FusedDetector:
    """Return a detector of images of a height and width."""
    recipe = load_recipe(find_method(method), {"backbones": (BACKBONE,), "image_size": SIZE})
    return fuse_pair(
        make_pair(method, BACKBONE, sigma=BLUR), InputSpec(height=image[0], width=image[1]), SIZE, recipe.resize_to
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_traced_once(method: str, traced: list[int], tmp_path) -> None:
    # Of the structure that trainings in INT8 export: a structure is exported once in all tests.
    detector = detector_of(method, (SIZE, SIZE))
    export_onnx(detector, tmp_path / "model.onnx", max_batch=8, metadata={})
    assert traced == [TRACED_BATCH]


@pytest.mark.slow
def test_the_graph_is_that_of_a_symbolic_batch_size(tmp_path, monkeypatch) -> None:
    detector = detector_of("mixed-teacher", CAMERA)  # of the structure of the fixture ``exported``
    export_onnx(detector, tmp_path / "replaced.onnx", max_batch=8, metadata={})
    monkeypatch.setattr(onnx_export, "set_batch", lambda model, batch: False)
    export_onnx(detector, tmp_path / "symbolic.onnx", max_batch=8, metadata={})
    replaced, symbolic = (_numbered(onnx.load(tmp_path / f"{each}.onnx")) for each in ("replaced", "symbolic"))
    assert replaced == symbolic


def _numbered(model: ModelProto) -> str:
    """The graph as text, with weights and constants named by their order of use."""
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    names: dict[str, str] = {}
    for node in graph.node:
        for name in node.input:
            if name in weights:
                names.setdefault(name, f"weight {len(names)}")
        node.input[:] = [names.get(name, name) for name in node.input]
    del graph.initializer[:]
    for name, number in names.items():
        weights[name].name = number
        graph.initializer.append(weights[name])
    return str(model)


class Halves(nn.Module):
    """A pair whose networks split their channels, and weight them over all pixels."""

    mean, std = (0.5,) * 3, (0.25,) * 3
    spec = PairSpec((MapSpec((Tap("teacher"),), Combine.SUM),))

    def __init__(self) -> None:
        super().__init__()
        self.teacher, self.student = (nn.Conv2d(3, 4, 3, padding=1) for _ in range(2))

    def forward(self, x):
        features = []
        for network in (self.teacher, self.student):
            one, other = network(x).split(2, dim=1)
            weights = torch.softmax(one.reshape(len(one), -1), 1).reshape(one.shape)
            features.append(weights * other)
        return [tuple(features)]


@pytest.mark.slow
def test_split_channels_and_open_sizes_are_right_at_every_batch_size(traced: list[int], tmp_path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from kdx.runtime.onnxruntime.cpu import OnnxRuntimeCpu

    torch.manual_seed(0)
    detector = fuse_pair(Halves(), InputSpec(height=44, width=44), 44)  # 11 divides the pixels
    export_onnx(detector, tmp_path / "model.onnx", max_batch=8, metadata={})
    assert traced == [TRACED_BATCH]
    with OnnxRuntimeCpu(Graph.of(tmp_path / "model.onnx")) as backend:
        for count in (1, 3, 7):
            images = solar_cells(count, (44, 44))
            maps = detector(torch.from_numpy(images))[0].numpy()
            assert np.abs(backend.run(images).maps - maps).max() <= FP32.map * np.ptp(maps)


class Folded(nn.Module):
    """A pair whose student treats each channel of an image as an image."""

    mean, std = (0.5,) * 3, (0.25,) * 3
    spec = PairSpec((MapSpec((Tap("teacher"),), Combine.SUM),))

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Conv2d(3, 4, 3, padding=1)
        self.student = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        teacher = self.teacher(x)
        count, channels, *sides = teacher.shape
        student = self.student(teacher.reshape(count * channels, 1, *sides))
        return [(teacher, student.reshape(count, channels, *sides))]


@pytest.mark.slow
@pytest.mark.parametrize("max_batch", [1, 8])
def test_what_is_not_known_is_traced_with_a_symbol(max_batch: int, traced: list[int], tmp_path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from kdx.runtime.onnxruntime.cpu import OnnxRuntimeCpu

    torch.manual_seed(0)
    detector = fuse_pair(Folded(), InputSpec(height=32, width=32), 32)
    export_onnx(detector, tmp_path / "model.onnx", max_batch=max_batch, metadata={})
    assert traced == [TRACED_BATCH, min(max_batch, 2)]
    with OnnxRuntimeCpu(Graph.of(tmp_path / "model.onnx")) as backend:
        for images in (solar_cells(1, (32, 32)), solar_cells(3, (32, 32))[:max_batch]):
            scores = detector(torch.from_numpy(images))[1].numpy()
            assert np.abs(backend.run(images).scores - scores).max() <= FP32.score * np.abs(scores).max()
