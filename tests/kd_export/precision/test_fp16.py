"""FP16 graphs: their types are checked, for CPU runtimes compute them in FP32 and would hide every
fault."""

from __future__ import annotations

import copy
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from kd_export.graph import Combine, FusedDetector, MapSpec, PairSpec, Tap
from kd_export.graph.distance import unit_vectors
from kd_export.onnx.onnx_export import export_onnx
from kd_export.precision.fp16 import (
    ACTIVATION_LIMIT,
    CONVOLUTIONS,
    half_convolutions,
    network_tensors,
    plan_half,
    to_half,
)
from kd_export.precision.ranges import measure_ranges, tap_ranges
from kd_train.training.run_folder import Run
from kd_train.training.trained_pair import fuse, load_pair
from kdx.bundle.manifest import GRAPH
from kdx.bundle.open import open_bundle
from kdx.bundle.variants import FP16_MAX, graph_file
from kdx.imaging.images import InputSpec
from kdx.verification.tolerances import FP16
from tests.images import solar_cells

HALF = graph_file("fp16")


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    return types | {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}


def run(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["anomaly_map", "anomaly_score"], {"image": images})


def test_every_type_in_the_graph_of_every_method(exported) -> None:
    model = onnx.load(exported.fp16)
    types = element_types(model)
    assert types["image"] == TensorProto.UINT8
    assert types["anomaly_map"] == types["anomaly_score"] == TensorProto.FLOAT
    # Those after the taps are sums over channels, and FP32 like everything there.
    convolutions = [n for n in model.graph.node if n.op_type in CONVOLUTIONS and n.name.startswith("pair")]
    assert len(convolutions) > 5
    for node in convolutions:
        assert {types[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}, node.name
    for node in model.graph.node:
        found = {types[name] for name in (*node.input, *node.output)} & {TensorProto.FLOAT, TensorProto.FLOAT16}
        if node.op_type == "Cast" and node.name.startswith("pair/Cast"):
            assert len(found) == 2, f"{node.name} converts nothing"
        elif node.name.startswith(("preprocess", "tail")):
            assert found == {TensorProto.FLOAT}, node.name
        else:
            assert len(found) == 1, f"{node.name} mixes precisions"
    # Down once, where the networks begin; up where a distance begins; both once more around a norm
    # or a mean.
    casts = [node for node in model.graph.node if node.name.startswith("pair/Cast")]
    assert len({(node.input[0], node.attribute[0].i) for node in casts}) == len(casts)


def test_the_graph_is_what_pytorch_computes_in_half_precision(exported) -> None:
    # The independent reference: the same detector with its pair in float16, where every operation
    # rounds.
    fused = exported.detector
    half = copy.deepcopy(fused)
    half.pair.half()
    images = solar_cells(3, (72, 80))
    with torch.inference_mode():
        x = torch.from_numpy(images)
        exact_maps, exact = (output.numpy() for output in fused(x))
        theirs_maps, theirs = (output.numpy() for output in half.tail(half.pair(half.preprocess(x).half())))
    ours_maps, ours = run(onnx.load(exported.fp16), images)
    extent = np.ptp(exact_maps, axis=(1, 2)).max()
    assert np.abs(theirs - exact).max() > 0, "the reference does not round"
    for maps, scores in ((theirs_maps, theirs), (ours_maps, ours)):
        # Random weights: teacher and student are far apart, and rounding is a smaller part of their
        # distance than the tolerances allow for.
        assert (np.abs(scores - exact) <= 0.1 * FP16.score * exact).all()
        assert np.abs(maps - exact_maps).max() <= 0.1 * FP16.map * extent


def test_the_range_report_is_what_hooks_on_the_pair_see(trained) -> None:
    configuration = Run(trained.folder / "run")
    pair, _ = load_pair(configuration)
    bundle = open_bundle(trained.folder / "tile.kdx")
    fused = fuse(configuration.config, pair, bundle.manifest.input)
    with torch.inference_mode():
        compared = fused.pair(fused.preprocess(torch.from_numpy(bundle.golden().images)))
    report = bundle.manifest.variants["fp16"].ranges.taps
    assert [tap.tap for tap in report] == [tap.name for tap in pair.spec.taps]
    for tap, (teacher, student) in zip(report, compared, strict=True):
        assert tap.teacher == pytest.approx(float(teacher.abs().max()), rel=1e-4)
        assert tap.student == pytest.approx(float(student.abs().max()), rel=1e-4)
        assert tap.headroom == pytest.approx(FP16_MAX / max(tap.teacher, tap.student))


@pytest.fixture(scope="module")
def plain(tiny_run, tmp_path_factory) -> tuple[onnx.ModelProto, np.ndarray, object]:
    """The FP32 graph of a tiny STPM, real images for it, and its spec."""
    configuration = Run(tiny_run)
    pair, _ = load_pair(configuration)
    fused = fuse(configuration.config, pair)
    path = tmp_path_factory.mktemp("plain") / GRAPH
    export_onnx(fused, path, max_batch=4, metadata={})
    return onnx.load(path), solar_cells(3, (64, 64)).mean(axis=-1, keepdims=True).astype(np.uint8), pair.spec


def scaled(
    model: onnx.ModelProto, node: int, factor: float, *, rows: slice = slice(None)
) -> tuple[onnx.ModelProto, str]:
    """Return the graph with the weights of its n-th convolution scaled, and that convolution's
    name."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    convolution = [n for n in changed.graph.node if n.op_type == "Conv"][node]
    tensor = next(t for t in changed.graph.initializer if t.name == convolution.input[1])
    values = numpy_helper.to_array(tensor).copy()
    values[rows] *= factor
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return changed, convolution.name


def planned(model, images):
    ranges = measure_ranges(model, network_tensors(model), images)
    return plan_half(model, ranges), ranges


@pytest.mark.slow
def test_a_weight_beyond_fp16_keeps_its_convolution_in_fp32(plain) -> None:
    model, images, _ = plain
    changed, name = scaled(model, 3, 1e7)
    plan, _ = planned(changed, images)
    kept = {node.node: node.reason for node in plan.kept}
    assert "a weight of" in kept[name] or "on the golden images" in kept[name]
    half = to_half(changed, plan)
    assert name in half_convolutions(half)[1]
    weights = [numpy_helper.to_array(tensor) for tensor in half.graph.initializer]
    assert all(np.isfinite(values).all() for values in weights)
    # What it makes is beyond FP16 too: whoever takes it is FP32 as well, and the decision survives.
    for ours, theirs in zip(run(half, images), run(changed, images), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, rtol=FP16.score, atol=FP16.map * np.ptp(theirs))


@pytest.mark.slow
def test_an_activation_beyond_fp16_stays_fp32_with_all_who_touch_it(plain) -> None:
    model, images, _ = plain
    changed, name = scaled(model, 0, 3e5)  # its weights still fit
    plan, ranges = planned(changed, images)
    by_name = {node.name: node for node in changed.graph.node}
    kept = {node.node for node in plan.kept}
    assert name in kept
    large = {tensor for tensor, value in ranges.items() if value > ACTIVATION_LIMIT}
    assert large
    for node in by_name.values():
        if node.name.startswith("pair") and large.intersection((*node.input, *node.output)):
            assert node.name in kept
    half = to_half(changed, plan)
    types = element_types(half)
    assert all(types[tensor] == TensorProto.FLOAT for tensor in large)


def test_a_convolution_whose_weights_vanish_stays_fp32(plain) -> None:
    model, images, _ = plain
    changed, name = scaled(model, 5, 1e-8)
    plan, _ = planned(changed, images)
    assert any(node.node == name and "too small for FP16" in node.reason for node in plan.kept)


def test_a_dead_channel_is_reported_and_costs_no_speed(plain) -> None:
    # Pretrained networks have such channels; what they lose is far below the rounding of the
    # layer's other outputs.
    model, images, _ = plain
    changed, name = scaled(model, 5, 1e-9, rows=slice(0, 1))
    plan, _ = planned(changed, images)
    assert name in plan.half
    assert plan.flushed[name] > 0


def test_values_that_are_not_finite_are_never_small(plain) -> None:
    model, images, _ = plain
    changed, name = scaled(model, 2, float("nan"))
    plan, ranges = planned(changed, images)
    assert any(np.isnan(value) for value in ranges.values())
    assert name in {node.node for node in plan.kept}


def test_ranges_are_the_largest_over_all_images(plain) -> None:
    model, images, spec = plain
    tensors = network_tensors(model)
    together = measure_ranges(model, tensors, images)
    apart = [measure_ranges(model, tensors, images[i : i + 1]) for i in range(len(images))]
    assert together == {name: max(each[name] for each in apart) for name in tensors}
    assert len({tap.teacher for tap in tap_ranges(model, spec, together)}) == len(spec.taps)


class Normalising(nn.Module):
    """A pair whose student takes the teacher's normalised features, as of DSKD."""

    def __init__(self, normalise) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.teacher, self.student = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.normalise = normalise
        with torch.no_grad():
            self.teacher.weight.uniform_(0, 0.3, generator=generator)
            self.teacher.bias.fill_(-0.1)  # features of what is dark are zero
            self.student.weight.uniform_(-0.3, 0.3, generator=generator)

    def forward(self, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        features = torch.relu(self.teacher(x))
        return [(features, self.student(self.normalise(features)))]


@pytest.mark.parametrize("normalise", [unit_vectors, lambda x: x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)])
def test_norms_within_the_networks_hold_what_fp16_cannot(tmp_path, normalise) -> None:
    spec, size = PairSpec((MapSpec((Tap("features"),), Combine.SUM),)), (16, 16)
    camera = InputSpec(height=16, width=16, channels=3)
    detector = FusedDetector(Normalising(normalise), spec, camera, size, (0.5,) * 3, (0.25,) * 3)
    export_onnx(detector, tmp_path / GRAPH, max_batch=1, metadata={})
    model = onnx.load(tmp_path / GRAPH)
    images = np.full((3, 1, *size, 3), 140, np.uint8)
    images[1], images[2] = 0, 255  # zero vectors, whose norm FP16 rounds to 0; and the brightest image
    plan, _ = planned(model, images[0])
    half = to_half(model, plan)
    assert len(half_convolutions(half)[0]) == 2
    for image in images:
        for ours, exact in zip(run(half, image), run(model, image), strict=True):
            np.testing.assert_allclose(ours, exact, rtol=2e-3, atol=1e-3)


def test_weights_that_only_half_nodes_use_are_stored_once_in_half(exported) -> None:
    assert exported.fp16.stat().st_size < 0.62 * exported.fp32.stat().st_size
    graph = onnx.load(exported.fp16).graph
    used = {name for node in graph.node for name in node.input}
    assert all(tensor.name in used for tensor in graph.initializer)


def test_the_bundle_tells_of_its_variants(trained, cli) -> None:
    bundle = trained.folder / "tile.kdx"
    variant = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["variants"]["fp16"]
    assert 0 < variant["ranges"]["largest_value"] <= ACTIVATION_LIMIT
    half, others = half_convolutions(onnx.load(bundle / HALF))
    assert variant["convolutions"] == len(half)
    # Two epochs at a high rate leave some students with activations far beyond FP16: those nodes
    # stay in FP32.
    assert set(others) <= {node["node"] for node in variant["kept"]}
    shown = cli("inspect", bundle).stdout
    assert "fp16" in shown
    assert "headroom" in shown


@pytest.mark.slow
def test_an_fp16_graph_that_decides_otherwise_is_not_written(tmp_path, tiny_run, cli, monkeypatch) -> None:
    def broken(model, plan):
        return scaled(to_half(model, plan), 0, -8.0, rows=slice(0, 4))[0]

    monkeypatch.setattr("kd_export.precision.precision_graphs.to_half", broken)
    message = cli("export", tiny_run, "-o", tmp_path / "tile.kdx", "--precision", "fp32,fp16", code=1).stderr
    assert "does not decide what was trained" in message
    assert "fp16" in message
    assert not (tmp_path / "tile.kdx").exists()


def test_a_precision_that_the_bundle_lacks_is_named_with_the_fix(tiny_bundle, tmp_path, tiny_run, cli) -> None:
    import kdx

    with pytest.raises(kdx.KdxError, match="holds no fp16 graph") as error:
        kdx.load(tiny_bundle, precision="fp16")
    assert "--precision fp32,fp16" in error.value.fix
    wrong = cli("export", tiny_run, "-o", tmp_path / "b.kdx", "--precision", "int3", code=2)
    assert "fp32, fp16, bf16, int8" in wrong.stderr


def test_a_bundle_without_its_fp16_graph_is_refused(trained, tmp_path) -> None:
    import shutil

    import kdx

    bundle = shutil.copytree(trained.folder / "tile.kdx", tmp_path / "tile.kdx")
    (bundle / HALF).unlink()
    with pytest.raises(kdx.KdxError, match=HALF):
        kdx.load(bundle)
