"""From the taps to map and score: distance, upsampling, combination, blur.

Upsampling U and blur G are linear and separable, so each is one constant matrix per axis. For a sum
they are one matrix, ``A = G U``, and each tap's map becomes ``A_h M A_wᵀ``. For a product the
product comes between U and G, or between smaller matrices, see :mod:`kd_export.graph.product`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_export.graph.border import BorderWeights
from kd_export.graph.distance import EPSILON, distance_module
from kd_export.graph.product import AxisFactors, product_factors
from kd_export.graph.separable import Separable
from kdx.bundle.pair_spec import Combine, Join, MapSpec, PairSpec, ScoreRule
from kdx.imaging.resampling import bilinear_matrix, gaussian_matrix

Features = list[tuple[Tensor, Tensor]]
Shape = tuple[int, int, int]


class AnomalyMap(nn.Module):
    """Features at the taps to one map (STPM Eq. 4 for products).

    Args:
        spec: The map's declaration.
        tap_shapes: Channels, height and width of each tap's features.
        size: Height and width of the map.
    """

    def __init__(self, spec: MapSpec, tap_shapes: list[Shape], size: tuple[int, int]) -> None:
        super().__init__()
        self.combine = spec.combine
        self.weights = [tap.weight for tap in spec.taps]
        self.distances = nn.ModuleList(
            distance_module(tap.distance, shape[0]) for tap, shape in zip(spec.taps, tap_shapes, strict=True)
        )
        axes = [_axis(spec, [shape[axis + 1] for shape in tap_shapes], length) for axis, length in enumerate(size)]
        rows, columns = product_factors(*axes) if spec.combine is Combine.PRODUCT else axes
        self.upsample = nn.ModuleList(map(Separable, rows.before, columns.before))
        self.blur = None if rows.after is None or columns.after is None else Separable(rows.after, columns.after)

    def forward(self, features: Features) -> Tensor:
        """Take the two features of each tap, ``(N, C, h, w)``, and return the map ``(N, H, W)``."""
        combined: Tensor | None = None
        for (teacher, student), distance, upsample, weight in zip(
            features, self.distances, self.upsample, self.weights, strict=True
        ):
            assert isinstance(upsample, Separable)
            map_ = distance(teacher, student)
            part = upsample(map_) if self.blur is None else upsample.transposed(map_)
            if self.combine is Combine.SUM:
                part = part if weight == 1.0 else part * weight
                combined = part if combined is None else combined + part
            else:
                combined = part if combined is None else combined * part
        assert combined is not None
        return combined if self.blur is None else self.blur.of_transposed(combined)


def _axis(spec: MapSpec, lengths: list[int], length: int) -> AxisFactors:
    """Return the matrices of a map's taps along one axis: upsampling, combination, blur.

    Args:
        spec: The map's declaration.
        lengths: The length of each tap's features along the axis.
        length: The length of the map.
    """
    upsample = [bilinear_matrix(each, length) for each in lengths]
    blur = gaussian_matrix(length, spec.blur_sigma)
    if spec.combine is Combine.SUM:
        return AxisFactors([blur @ matrix for matrix in upsample], None)
    return AxisFactors(upsample, blur if spec.blur_sigma > 0 else None)


def blur_module(sigma: float, size: tuple[int, int]) -> nn.Module:
    """Return a Gaussian blur of ``(N, H, W)`` maps, reflected at the edges."""
    return Separable(*(gaussian_matrix(length, sigma) for length in size)) if sigma > 0 else nn.Identity()


class Confirmed(nn.Module):
    """MixedTeacher Eq. 11: ``A₁ · (max A₂ − min A₂) · A₂ / ‖A₂‖``, each image for itself.

    The text calls the last factor "the normalization" of the map without saying which; it is the L2
    norm over the map here. (The authors' published code divides each row by the row's norm, which
    makes a defect's brightness depend on what else lies in its row.)
    """

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Take two maps ``(N, H, W)`` and return one."""
        flat = second.flatten(1)
        extent = flat.amax(dim=1) - flat.amin(dim=1)
        # After the last tap everything is FP32; the bound keeps a map of zeros finite.
        factor = extent * torch.rsqrt((flat * flat).sum(dim=1).clamp_min(EPSILON))
        return first * (second * factor[:, None, None])


class Score(nn.Module):
    """A map to a score."""

    def __init__(self, rule: ScoreRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, anomaly_map: Tensor) -> Tensor:
        """Take ``(N, H, W)`` and return ``(N, 1)``."""
        flat = anomaly_map.flatten(1)
        return flat.amax(dim=1, keepdim=True) if self.rule is ScoreRule.MAX else flat.sum(dim=1, keepdim=True)


class Tail(nn.Module):
    """Everything after the last tap: features to anomaly map and score.

    Args:
        spec: The pair's declaration.
        tap_shapes: Channels, height and width of the features of each of ``spec.taps``.
        size: Height and width of the map.
        border_weights: The weights of each map by the distance from the border, see
            :mod:`kd_export.graph.border`; none for a map, or for all, that has no weights.
    """

    def __init__(
        self,
        spec: PairSpec,
        tap_shapes: list[Shape],
        size: tuple[int, int],
        border_weights: Sequence[tuple[float, ...]] = (),
    ) -> None:
        super().__init__()
        self.join = spec.join
        self.counts = [len(map_spec.taps) for map_spec in spec.maps]
        joined_sigma = 0.0
        maps = list(spec.maps)
        if spec.join is Join.CONFIRMED:
            # The product of the maps comes between upsampling and blur, as the product of taps
            # does.
            joined_sigma = maps[0].blur_sigma
            maps[0] = MapSpec(maps[0].taps, maps[0].combine)
        shapes = _groups(tap_shapes, self.counts)
        self.maps = nn.ModuleList(AnomalyMap(m, s, size) for m, s in zip(maps, shapes, strict=True))
        self.confirm = Confirmed() if spec.join is Join.CONFIRMED else None
        self.blur = blur_module(joined_sigma, size)
        self.border = nn.ModuleList(BorderWeights(each, size) if each else nn.Identity() for each in border_weights)
        self.score = Score(spec.score)

    def forward(self, features: Features) -> tuple[Tensor, Tensor]:
        """Return map ``(N, H, W)`` and score ``(N, 1)`` for the two features of each tap."""
        maps = self.unweighted(features)
        for index, weigh in enumerate(self.border):
            maps[index] = weigh(maps[index])
        first = maps[0]
        if self.join is Join.SCORE_SECOND:
            return first, self.score(maps[1])
        if self.join is Join.SCORE_BOTH:
            return first, self.score(first) * self.score(maps[1])
        return first, self.score(first)

    def unweighted(self, features: Features) -> list[Tensor]:
        """Return the maps before their border weights, ``(N, H, W)`` each: one or two."""
        maps = [module(part) for module, part in zip(self.maps, _groups(features, self.counts), strict=True)]
        return maps if self.confirm is None else [self.blur(self.confirm(maps[0], maps[1]))]


def _groups(items: list, counts: list[int]) -> list[list]:  # type: ignore[type-arg]
    """Cut a list into consecutive parts of the given lengths."""
    starts = [sum(counts[:index]) for index in range(len(counts))]
    return [items[start : start + count] for start, count in zip(starts, counts, strict=True)]
