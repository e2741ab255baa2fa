"""Where a graph spends its time, by part: the input's cast, mean and resize; the networks; the tail."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kdx.bundle.graph_contract import PAIR, PREPROCESS, TAIL

_STAGES = {PREPROCESS: "input", PAIR: "networks", TAIL: "tail"}
OTHER = "layout"


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds a call, as the runtime's own profiler counts them; profiling slows a call down.

    Attributes:
        backend: Its name.
        input_ms: Cast, resize, crop, mean.
        networks_ms: Teacher and students.
        tail_ms: Distances, upsampling, blur, combination, score.
        layout_ms: What the runtime put in between to change a tensor's layout or type.
        slowest: The nodes that take longest, and their milliseconds.
    """

    backend: str
    input_ms: float
    networks_ms: float
    tail_ms: float
    layout_ms: float
    slowest: list[tuple[str, float]]

    @property
    def total_ms(self) -> float:
        """The sum of all."""
        return self.input_ms + self.networks_ms + self.tail_ms + self.layout_ms


def stages_of(backend: str, node_ms: Mapping[str, float], slowest: int = 5) -> Stages:
    """Sort nodes' times into stages by the names of their modules.

    Args:
        backend: The backend's name.
        node_ms: Milliseconds a call of each node that the runtime ran.
        slowest: How many nodes to name.
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
        slowest=[(name, round(value, 4)) for name, value in sorted(node_ms.items(), key=lambda n: -n[1])[:slowest]],
    )


def stage_of(name: str) -> str:
    """Return a node's stage."""
    return _STAGES.get(name.split(".")[0].split("/")[0], OTHER)
