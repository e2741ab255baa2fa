"""Graphs and bundles that differ from one at hand in the student alone, or in the teacher: nothing
is trained."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import torch
from onnx import numpy_helper

from kd_export.graph import FusedDetector
from kd_export.onnx.onnx_export import export_onnx
from kd_export.precision.int8_plan import plan_int8
from kd_export.precision.quantize import quantize, quantize_by
from kd_train.training.run_folder import Run
from kd_train.training.trained_pair import fuse, load_pair
from kdx.bundle.checked_files import Graph
from kdx.bundle.graph_contract import PAIR, TEACHER
from kdx.bundle.manifest import GOLDEN_MAPS, GOLDEN_SCORES, GRAPH, INT8_MAPS, INT8_SCORES, Int8Students
from kdx.bundle.open import open_bundle
from kdx.bundle.store import write_files, write_manifest
from kdx.bundle.variants import Variant, graph_file
from kdx.calibration.validity import runtimes_for
from kdx.runtime.onnxruntime.cpu import OnnxRuntimeCpu
from kdx.storage.files import sha256_file
from kdx.storage.npy import encode_array


def other_student(graph: Path, path: Path, seed: int) -> Path:
    """Write a graph whose student's weights are others."""
    generator = np.random.default_rng(seed)
    return _rewritten(
        graph,
        path,
        lambda name: name.startswith(f"{PAIR}.") and not name.startswith(TEACHER),
        lambda values: (values * generator.uniform(0.8, 1.2, values.shape)).astype(np.float32),
    )


def other_teacher(graph: Path, path: Path) -> Path:
    """Write a graph in whose teacher the last convolution's first weight is the next larger
    number."""
    last = [node.name for node in onnx.load(graph).graph.node if node.name.startswith(TEACHER) and "Conv" in node.name]

    def nudge(values: np.ndarray) -> np.ndarray:
        nudged = values.copy()
        nudged.flat[0] = np.nextafter(nudged.flat[0], np.float32(np.inf))
        return nudged

    return _rewritten(graph, path, lambda name: name == last[-1], nudge)


def _rewritten(
    graph: Path, path: Path, chosen: Callable[[str], bool], change: Callable[[np.ndarray], np.ndarray]
) -> Path:
    """Write a graph with other FP32 weights in the convolutions that are chosen by name."""
    model = onnx.load(graph)
    wanted = {name for node in model.graph.node if chosen(node.name) and "Conv" in node.op_type for name in node.input}
    changed = 0
    for tensor in model.graph.initializer:
        if tensor.name in wanted and tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
            changed += 1
    assert changed
    onnx.save(model, path)
    return path


def other_bundle(bundle: Path, path: Path, make: Callable[[Path, Path], Path]) -> Path:
    """Copy a bundle with a new FP32 graph; golden answers and threshold are the new
    graph's."""
    shutil.copytree(bundle, path, ignore=shutil.ignore_patterns("model*.onnx"))
    opened = open_bundle(bundle)
    graph = make(opened.graph.path, path / GRAPH)
    with OnnxRuntimeCpu(Graph.of(graph), 1) as backend:
        golden = backend.run(opened.golden().images)
    write_files(path, {GOLDEN_MAPS: encode_array(golden.maps), GOLDEN_SCORES: encode_array(golden.scores)})
    middle = float(np.median(golden.scores))
    threshold = msgspec.structs.replace(
        opened.manifest.threshold, score=middle, pixel=middle, scores=[], graph_sha256=sha256_file(graph)
    )
    write_manifest(
        path, msgspec.structs.replace(opened.manifest, threshold=threshold, variants={}, runtime_thresholds={})
    )
    return path


def add_int8(bundle: Path, images: np.ndarray) -> Path:
    """Add an INT8 graph calibrated on images to a bundle, with FP32's threshold in every runtime
    that runs it."""
    opened = open_bundle(bundle)
    graph = bundle / graph_file("int8")
    onnx.save(quantize(onnx.load(opened.graph.path), images), graph)
    threshold = msgspec.structs.replace(opened.manifest.threshold, graph_sha256=sha256_file(graph))
    variant = Variant(file=graph.name, convolutions=1, kept=[])
    own = {"int8": dict.fromkeys(runtimes_for("int8"), threshold)}
    write_manifest(bundle, msgspec.structs.replace(opened.manifest, variants={"int8": variant}, runtime_thresholds=own))
    return bundle


ORIGIN = Int8Students(checkpoint_sha256="1" * 64, teacher_sha256="2" * 64, epoch=3, headroom=1.5)


def int8_students(run: Path, images: np.ndarray) -> FusedDetector:
    """Return the teacher of a run of STPM with a student whose weights are nearly its own, as INT8
    networks: their scores are far below those of FP32."""
    opened = Run(run)
    pair, _ = load_pair(opened)
    generator = torch.Generator().manual_seed(0)
    taught = {name.removeprefix("teacher.networks.0."): value for name, value in pair.state_dict().items()}
    with torch.no_grad():
        for name, value in pair.student.state_dict().items():
            value.copy_(taught[name])
        for weights in pair.student.parameters():
            weights.mul_(0.8 + 0.4 * torch.rand(weights.shape, generator=generator))
    detector = fuse(opened.config, pair)
    return detector.quantized(plan_int8(graph_of(detector), images, headroom=1.5))


def graph_of(detector: FusedDetector, max_batch: int = 1) -> onnx.ModelProto:
    """Return the FP32 graph of a detector."""
    exact = copy.deepcopy(detector)
    exact.quantizer = None
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(exact, Path(folder) / GRAPH, max_batch=max_batch, metadata={})
        return onnx.load(Path(folder) / GRAPH)


def add_int8_students(bundle: Path, students: FusedDetector) -> Path:
    """Add the INT8 graph of students to a bundle, and their golden answers in PyTorch."""
    manifest, images = open_bundle(bundle).manifest, open_bundle(bundle).golden().images
    graph = quantize_by(graph_of(students, manifest.max_batch), students.quantizer.plan)
    onnx.save(graph, bundle / graph_file("int8"))
    with torch.inference_mode():
        maps, scores = students(torch.from_numpy(images))
    write_files(bundle, {INT8_MAPS: encode_array(maps.numpy()), INT8_SCORES: encode_array(scores.numpy())})
    provenance = msgspec.structs.replace(manifest.provenance, int8=ORIGIN)
    variants = {**manifest.variants, "int8": Variant(file=graph_file("int8"), convolutions=1, kept=[])}
    changed = msgspec.structs.replace(manifest, provenance=provenance, schema=provenance.schema, variants=variants)
    write_manifest(bundle, changed)
    return bundle
