"""The time that a graph takes, by stage: input, networks, tail."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kdx.bundle.graph_contract import PAIR, PREPROCESS, TAIL

_STAGES = {PREPROCESS: "input", PAIR: "networks", TAIL: "tail"}
OTHER = "layout"
_SLOWEST = 5  # nodes that are named


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds per call, measured by the runtime's own profiler, which slows the call down.

    Attributes:
        backend: The backend's name.
        input_ms: The time of cast, resize, crop and mean.
        networks_ms: The time of teacher and students.
        tail_ms: The time of distances, upsampling, blur, combination and score.
        layout_ms: The time of nodes that the runtime inserted to change a tensor's layout or type.
        slowest: The slowest nodes and their milliseconds.
    """

    backend: str
    input_ms: float
    networks_ms: float
    tail_ms: float
    layout_ms: float
    slowest: list[tuple[str, float]]

    @property
    def total_ms(self) -> float:
        """The sum of all stages."""
        return self.input_ms + self.networks_ms + self.tail_ms + self.layout_ms


def stages_of(backend: str, node_ms: Mapping[str, float]) -> Stages:
    """Sort nodes' times into stages by the names of their modules.

    Args:
        backend: The backend's name.
        node_ms: The milliseconds per call of each node that the runtime ran.
    """
    sums = dict.fromkeys((*_STAGES.values(), OTHER), 0.0)
    for name, value in node_ms.items():
        sums[stage_of(name)] += value
    return Stages(
        backend=backend,
        input_ms=round(sums["input"], 4),
        networks_ms=round(sums["networks"], 4),
        tail_ms=round(sums["tail"], 4),
        layout_ms=round(sums[OTHER], 4),
        slowest=[(name, round(value, 4)) for name, value in sorted(node_ms.items(), key=lambda n: -n[1])[:_SLOWEST]],
    )


def stage_of(name: str) -> str:
    """Return a node's stage."""
    return _STAGES.get(name.split(".")[0].split("/")[0], OTHER)
