"""The tail as two launches: what ``kd_export.graph.tail.Tail`` computes, by kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_export.graph.tail import Features, Shape
from kdx.bundle.pair_spec import Combine, Join, MapSpec, PairSpec, ScoreRule
from kernels.distance import distance_launch, first_positions
from kernels.launch import Launch, run_all
from kernels.tables import bilinear_tables, blur_bands
from kernels.tail import (
    BLOCK,
    NO_SCORE,
    OWN_SCORE,
    PRODUCT_OF_SCORES,
    STATISTICS,
    TILE,
    MapOutputs,
    MapPlan,
    map_launch,
)


class MapConstants(nn.Module):
    """One map's plan, and the tables that its kernel reads.

    Args:
        spec: The map's declaration.
        shapes: Height and width of each tap.
        starts: Where each tap begins among one image's positions.
        size: Height and width of the map.
    """

    def __init__(
        self, spec: MapSpec, shapes: list[tuple[int, int]], starts: tuple[int, ...], size: tuple[int, int]
    ) -> None:
        super().__init__()
        rows = bilinear_tables([height for height, _ in shapes], size[0])
        columns = bilinear_tables([width for _, width in shapes], size[1])
        self._names: dict[str, list[str]] = {"tables": [], "bands": []}
        self._register("tables", (*rows, *columns))
        reach = (0, 0)
        if spec.blur_sigma > 0:
            row_bands, first_rows, down = blur_bands(size[0], spec.blur_sigma, TILE, BLOCK)
            column_bands, first_columns, across = blur_bands(size[1], spec.blur_sigma, TILE, BLOCK)
            self._register("bands", (row_bands, first_rows, column_bands, first_columns))
            reach = (down, across)
        taps = tuple(
            (height, width, start, tap.weight)
            for (height, width), start, tap in zip(shapes, starts, spec.taps, strict=True)
        )
        self.plan = MapPlan(size, taps, spec.combine is Combine.PRODUCT, reach)

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """Of the upsampling: lower row and fraction of each row of the map, then of each column."""
        return tuple(self.get_buffer(name) for name in self._names["tables"])

    @property
    def bands(self) -> tuple[Tensor, ...] | None:
        """The blur's weights and first row of each tile, then of the columns; None without blur."""
        return tuple(self.get_buffer(name) for name in self._names["bands"]) or None

    def _register(self, kind: str, tensors: tuple[Tensor, ...]) -> None:
        for index, tensor in enumerate(tensors):
            self._names[kind].append(f"{kind}_{index}")
            self.register_buffer(f"{kind}_{index}", tensor, persistent=False)


class FusedTail(nn.Module):
    """Everything after the taps, from features to map and score, in two or three launches.

    For inference only. Built and called as :class:`kd_export.graph.tail.Tail`, which is its
    reference.

    Args:
        spec: The pair's declaration.
        tap_shapes: Channels, height and width of the features of each of ``spec.taps``.
        size: Height and width of the map.
    """

    def __init__(self, spec: PairSpec, tap_shapes: list[Shape], size: tuple[int, int]) -> None:
        super().__init__()
        self.join = spec.join
        self.score_is_sum = spec.score is ScoreRule.SUM
        self.size = size
        # A second map that neither confirms nor scores is not computed.
        maps = spec.maps[:1] if spec.join in {Join.SINGLE, Join.SCORE_FIRST} else spec.maps
        taps = [tap for map_spec in maps for tap in map_spec.taps]
        self.kinds = [tap.distance for tap in taps]
        shapes = [shape[1:] for shape in tap_shapes[: len(taps)]]
        counts = [height * width for height, width in shapes]
        starts = first_positions(counts)
        self.positions = sum(counts)
        ends = [sum(len(map_spec.taps) for map_spec in maps[: index + 1]) for index in range(len(maps))]
        self.maps = nn.ModuleList(
            MapConstants(m, shapes[end - len(m.taps) : end], starts[end - len(m.taps) : end], size)
            for m, end in zip(maps, ends, strict=True)
        )

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Take two features of each tap; return the map ``(N, H, W)`` and the score ``(N, 1)``.

        Raises:
            BackendError: The features are not on a CUDA device.
        """
        launches, anomaly_map, score = self.launches(features)
        run_all(launches, score.device)
        return anomaly_map, score

    def launches(self, features: Features) -> tuple[list[Launch], Tensor, Tensor]:
        """Return the launches for some features, and the map and score that they fill."""
        example = features[0][0]
        batch = example.shape[0]
        distances = example.new_empty(batch * self.positions, dtype=torch.float32)
        finished = example.new_empty(batch, dtype=torch.int32)
        score = example.new_empty((batch, 1), dtype=torch.float32)
        first = self._outputs(0, finished, score)
        launches = [distance_launch(features[: len(self.kinds)], self.kinds, distances, finished)]
        assert first.anomaly_map is not None
        if self.join in {Join.SINGLE, Join.SCORE_FIRST}:
            launches.append(self._launch(0, distances, first, score_rule=OWN_SCORE))
        elif self.join is Join.CONFIRMED:
            second = self._outputs(1, finished, score)
            launches.append(self._launch(1, distances, second))
            launches.append(self._launch(0, distances, first, confirmed_by=second, score_rule=OWN_SCORE))
        else:
            second = self._outputs(1, finished, score, keep_map=False)
            rule = PRODUCT_OF_SCORES if self.join is Join.SCORE_BOTH else OWN_SCORE
            launches.append(self._launch(0, distances, first))
            launches.append(self._launch(1, distances, second, score_rule=rule, score_of=first))
        return launches, first.anomaly_map, score

    def _outputs(self, index: int, finished: Tensor, score: Tensor, *, keep_map: bool = True) -> MapOutputs:
        batch = score.shape[0]
        plan = self._constants(index).plan
        statistics = score.new_empty((batch, STATISTICS, plan.tiles[0] * plan.tiles[1]))
        anomaly_map = score.new_empty((batch, *self.size)) if keep_map else None
        return MapOutputs(anomaly_map, statistics, finished, score)

    def _launch(
        self,
        index: int,
        distances: Tensor,
        outputs: MapOutputs,
        *,
        confirmed_by: MapOutputs | None = None,
        score_rule: int = NO_SCORE,
        score_of: MapOutputs | None = None,
    ) -> Launch:
        constants = self._constants(index)
        return map_launch(
            constants.plan,
            distances,
            constants.tables,
            constants.bands,
            outputs,
            confirmed_by=confirmed_by,
            score_rule=score_rule,
            score_of=score_of,
            score_is_sum=self.score_is_sum,
        )

    def _constants(self, index: int) -> MapConstants:
        constants = self.maps[index]
        assert isinstance(constants, MapConstants)
        return constants
