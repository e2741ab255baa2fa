"""Ranks layers by how much INT8 changes the maps.

Measuring what quantising a node does to the maps takes two graphs for each node: minutes for a
network of some hundred nodes. So all nodes are first ranked by what quantising does to their own
outputs, which one graph measures for all of them at once; only the worst of them are then ranked by
the maps.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from kd_export.precision.quantize import put_back, quantised_nodes
from kdx.runtime.onnxruntime.session import open_session

# How many of the worst nodes by their own outputs are measured by the maps.
MEASURED = 24
_FROM_QUANTISED = "quantised."


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of quantising one node.

    Attributes:
        node: The node's name.
        error: Root of the mean square difference of the maps, relative to the maps themselves; or
            of the node's own output, if only that was measured.
        of_maps: Whether ``error`` is that of the maps.
    """

    node: str
    error: float
    of_maps: bool = True


def worst_layers(
    quantised: ModelProto,
    model: ModelProto,
    images: NDArray[np.uint8],
    maps_of: Callable[[ModelProto, NDArray[np.uint8]], NDArray[np.float32]],
    *,
    measured: int = MEASURED,
    step: Callable[[], None] = lambda: None,
) -> list[Sensitivity]:
    """Return the effect of quantising each node, worst first: measured by maps before others.

    It is the effect of the node alone. But if leaving out one node removes most of the common
    effect of all nodes, its fault shows only together with the others: a scale that is too large,
    which does not matter to networks whose features are normalised, drives later nodes beyond their
    range.

    Args:
        quantised: The graph that :func:`kd_export.precision.quantize.quantize` returned.
        model: The FP32 graph that it was made from.
        images: A few real images, defects among them where there are any.
        maps_of: Runs a graph on images.
        measured: How many of the worst by their own outputs are measured by the maps.
        step: Called after each of these measurements.
    """
    reference = maps_of(model, images).astype(np.float64)
    energy = max(float(np.square(reference).sum()), float(np.finfo(np.float64).tiny))

    def noise(graph: ModelProto) -> float:
        value = float(np.square(maps_of(graph, images) - reference).sum()) / energy
        return value if np.isfinite(value) else float("inf")

    own = output_errors(quantised, model, images)
    ranked = sorted(own, key=lambda name: -own[name])
    together = noise(quantised)
    found = []
    for name in ranked[:measured]:
        error = noise(put_back(quantised, model, set(own) - {name}))
        without = noise(put_back(quantised, model, {name}))
        if without < 0.5 * together:
            error = max(error, together - without)
        found.append(Sensitivity(node=name, error=float(np.sqrt(error))))
        step()
    found.sort(key=lambda each: -each.error)
    return [*found, *(Sensitivity(node=name, error=own[name], of_maps=False) for name in ranked[measured:])]


def output_errors(quantised: ModelProto, model: ModelProto, images: NDArray[np.uint8]) -> dict[str, float]:
    """Return the relative error of each quantised node's output for FP32 inputs, by mean square.

    The graph that measures it holds every node twice, in FP32 and quantised, and computes the sums
    of squares itself.
    """
    probe, names = _probe(quantised, model)
    session = open_session(probe.SerializeToString(), "the graph that measures layers")
    sums = np.zeros(2 * len(names))
    for image in images:
        sums += np.array(session.run(None, {probe.graph.input[0].name: image[None]}), np.float64)
    errors, energies = sums[0::2], sums[1::2].clip(np.finfo(np.float64).tiny)
    # A sum that is not finite counts as the worst error.
    relative = np.nan_to_num(np.sqrt(errors / energies), nan=np.inf)
    return dict(zip(names, relative.tolist(), strict=True))


def _probe(quantised: ModelProto, model: ModelProto) -> tuple[ModelProto, list[str]]:
    """Return a graph that outputs two sums of squares for each quantised node: error and output."""
    probe = ModelProto()
    probe.CopyFrom(model)
    graph = probe.graph
    del graph.output[:]
    exact = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    exact.update(value.name for value in graph.input)
    graph.initializer.extend(tensor for tensor in quantised.graph.initializer if tensor.name not in exact)
    makers = {name: node for node in quantised.graph.node for name in node.output}
    nodes = {node.name: node for node in quantised.graph.node}
    names = quantised_nodes(quantised)
    for index, name in enumerate(names):
        twin = NodeProto()
        twin.CopyFrom(nodes[name])
        for source in twin.input:
            _add_chain(source, makers, exact, graph)
        twin.name, twin.output[:] = f"{_FROM_QUANTISED}{name}", [f"{_FROM_QUANTISED}{nodes[name].output[0]}"]
        difference, error, energy = (f"probe.{what}.{index}" for what in ("difference", "error", "energy"))
        graph.node.extend(
            [
                twin,
                helper.make_node("Sub", [twin.output[0], nodes[name].output[0]], [difference]),
                helper.make_node("ReduceSumSquare", [difference], [error], keepdims=0),
                helper.make_node("ReduceSumSquare", [nodes[name].output[0]], [energy], keepdims=0),
            ]
        )
        graph.output.extend(helper.make_tensor_value_info(each, TensorProto.FLOAT, []) for each in (error, energy))
    return probe, names


def _add_chain(name: str, makers: dict[str, NodeProto], exact: set[str], graph: object) -> None:
    """Add the nodes that quantise a tensor of the FP32 graph, once."""
    if name in exact or name not in makers:
        return
    maker = makers[name]
    for source in maker.input:
        _add_chain(source, makers, exact, graph)
    graph.node.append(maker)  # type: ignore[attr-defined]
    exact.update(maker.output)
