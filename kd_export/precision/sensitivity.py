"""Which layers INT8 hurts most.

What quantising a node does to the maps takes two graphs a node to find out: minutes for a network of some hundred. So
all nodes are first ranked by what quantising does to their own outputs, which one graph measures for all of them at
once; and only the worst of those by the maps.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from kd_export.precision.quantize import put_back, quantised_nodes
from kdx.runtime.onnxruntime.session import open_session

# So many of the worst by their own outputs are measured by the maps.
MEASURED = 24
_FROM_QUANTISED = "quantised."


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """What quantising one node does.

    Attributes:
        node: Its name.
        error: Root of the mean square difference of the maps, relative to the maps' own; of the node's own output where
            that alone was measured.
        of_maps: Which of the two.
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
    """Return what quantising each node does, worst first; those measured by the maps stand before all others.

    That is what it does alone. But where leaving out one node removes most of what all do together, its fault is one
    that shows only among the others: a scale that is too large, which networks whose features are normalised do not
    mind, drives those behind it beyond their range.

    Args:
        quantised: Of :func:`kd_export.precision.quantize.quantize`.
        model: The FP32 graph that it was made from.
        images: A few real images, defects among them where there are any.
        maps_of: Runs a graph on images.
        measured: How many of the worst by their own outputs are measured by the maps.
        step: Called after each of those.
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
    """Return how far each quantised node's output is from FP32's, given FP32 inputs; relative, root of mean square.

    Beside every node of the FP32 graph stands the quantised one, and the sums of squares are taken inside the graph.
    """
    probe, names = _probe(quantised, model)
    session = open_session(probe.SerializeToString(), "the graph that measures layers")
    sums = np.zeros(2 * len(names))
    for image in images:
        sums += np.array(session.run(None, {probe.graph.input[0].name: image[None]}), np.float64)
    errors, energies = sums[0::2], sums[1::2].clip(np.finfo(np.float64).tiny)
    # A sum that is not finite is the worst there is.
    relative = np.nan_to_num(np.sqrt(errors / energies), nan=np.inf)
    return dict(zip(names, relative.tolist(), strict=True))


def _probe(quantised: ModelProto, model: ModelProto) -> tuple[ModelProto, list[str]]:
    """Return a graph whose outputs are two sums of squares for each quantised node: its error's, its output's."""
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
    """Add what quantises a tensor of the FP32 graph, once."""
    if name in exact or name not in makers:
        return
    maker = makers[name]
    for source in maker.input:
        _add_chain(source, makers, exact, graph)
    graph.node.append(maker)  # type: ignore[attr-defined]
    exact.update(maker.output)
