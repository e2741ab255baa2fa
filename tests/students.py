"""Graphs and bundles that differ from one at hand in the student alone, or in the teacher: nothing
is trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from kd_export.precision.quantize import quantize
from kdx.bundle.checked_files import Graph
from kdx.bundle.graph_contract import PAIR, TEACHER
from kdx.bundle.manifest import GOLDEN_MAPS, GOLDEN_SCORES, GRAPH
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
