"""The usual implementation without kdx, which ``kdx bench`` times for comparison.

Eager PyTorch in FP32 with separate steps: normalisation, both networks with their batch
normalisations, ``F.normalize``, ``F.interpolate`` of each tap, the product or sum, and
``scipy.ndimage.gaussian_filter`` on the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from msgspec import UNSET
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from kd_export.graph import Combine, Distance, Join, MapSpec, ScoreRule
from kd_export.graph.border import border_distances
from kd_export.graph.distance import distance_module
from kd_export.graph.preprocess import Window
from kd_train.models.pair import Pair
from kd_train.training.run_folder import Run
from kd_train.training.trained_pair import fuse, load_pair
from kdx.bundle.manifest import Manifest
from kdx.errors import CheckpointError
from kdx.imaging.images import InputSpec
from kdx.runtime.backend import Backend, ClosesOnExit, Outputs
from kdx.runtime.torch.eager import TorchEager


def eager_candidates(run: Run, manifest: Manifest, threads: int) -> list[Backend]:
    """Return the two backends that a bundle is timed against: baseline and eager detector.

    Raises:
        CheckpointError: The bundle was not exported from this run.
    """
    for which in ("last", "best"):
        if run.checkpoint(which).sha256 == manifest.provenance.checkpoint_sha256:
            pair, _ = load_pair(run, which)
            weights = run.config.border_weights
            baseline = EagerBaseline(
                pair,
                manifest.input,
                manifest.map_size,
                threads,
                run.config.recipe.resize_to,
                () if weights is UNSET else weights,
            )
            return [baseline, TorchEager(fuse(run.config, pair, manifest.input), threads)]
    raise CheckpointError(
        f"the bundle was not exported from '{run.path}'",
        expected=f"checkpoint {manifest.provenance.checkpoint_sha256[:16]}",
        received=f"checkpoint {run.checkpoint('last').sha256[:16]}",
        fix="name the run that it was exported from, or export again",
    )


class EagerBaseline(ClosesOnExit):
    """The usual implementation as a backend, so that it is timed like one.

    Args:
        pair: The trained pair.
        input_spec: The camera's images.
        size: The height and width at which the networks run.
        threads: The number of PyTorch's threads, for the whole process.
        resize_to: The height and width to which images are resized before ``size`` is cut from
            their centre.
        border_weights: The weights of each map by the distance from the border, or nothing.
    """

    name = "eager baseline"

    def __init__(
        self,
        pair: Pair,
        input_spec: InputSpec,
        size: tuple[int, int],
        threads: int | None = None,
        resize_to: tuple[int, int] | None = None,
        border_weights: Sequence[tuple[float, ...]] = (),
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.pair = pair.eval()
        self.input_spec = input_spec
        self.size = size
        self.resize_to = resize_to
        self.border_weights = {
            index: np.array(each, np.float32)[border_distances(size)]
            for index, each in enumerate(border_weights)
            if each
        }
        self.mean = torch.tensor(pair.mean).view(1, 3, 1, 1)
        self.std = torch.tensor(pair.std).view(1, 3, 1, 1)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`."""
        spec = self.pair.spec
        with torch.inference_mode():
            features = self.pair(self._prepare(images))
            maps = []
            for part in spec.maps:
                own, features = features[: len(part.taps)], features[len(part.taps) :]
                maps.append(self._combine(part, own)[:, 0])
            if spec.join is Join.CONFIRMED:
                maps[0] = maps[0] * _confirmation(maps[1])
        first = self._weighted(0, _blurred(maps[0].numpy(), spec.maps[0].blur_sigma))
        scores = self._score(first)
        if spec.join in {Join.SCORE_SECOND, Join.SCORE_BOTH}:
            second = self._score(self._weighted(1, _blurred(maps[1].numpy(), spec.maps[1].blur_sigma)))
            scores = second if spec.join is Join.SCORE_SECOND else scores * second
        return Outputs(first, scores[:, None])

    def _prepare(self, images: NDArray[np.uint8]) -> Tensor:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        if self.input_spec.channels == 1:
            x = x.expand(-1, 3, -1, -1)
        elif self.input_spec.channel_order == "bgr":
            x = x.flip(1)
        if self.input_spec.crop is not UNSET:
            x = Window(self.input_spec.crop)(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        full = self.resize_to or self.size
        if x.shape[2:] != full:
            x = F.interpolate(x, size=full, mode="bilinear", antialias=True, align_corners=False)
        top, left = (round((whole - part) / 2) for whole, part in zip(full, self.size, strict=True))
        x = x[:, :, top : top + self.size[0], left : left + self.size[1]]
        return (x - self.mean) / self.std

    def _combine(self, part: MapSpec, features: list[tuple[Tensor, Tensor]]) -> Tensor:
        combined: Tensor | None = None
        for (teacher, student), tap in zip(features, part.taps, strict=True):
            distance_of = _USUAL_DISTANCES.get(tap.distance) or distance_module(tap.distance, teacher.shape[1])
            distance = distance_of(teacher, student)
            scaled = F.interpolate(distance[:, None], size=self.size, mode="bilinear", align_corners=False)
            if part.combine is Combine.SUM:
                scaled = tap.weight * scaled
                combined = scaled if combined is None else combined + scaled
            else:
                combined = scaled if combined is None else combined * scaled
        assert combined is not None
        return combined

    def _weighted(self, index: int, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        return maps * self.border_weights[index] if index in self.border_weights else maps

    def _score(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        flat = maps.reshape(len(maps), -1)
        scores: NDArray[np.float32] = flat.max(axis=1) if self.pair.spec.score is ScoreRule.MAX else flat.sum(axis=1)
        return scores

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def _cosine(teacher: Tensor, student: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(teacher, student, dim=1)


def _half_squared_l2(teacher: Tensor, student: Tensor) -> Tensor:
    return 0.5 * (F.normalize(teacher, dim=1) - F.normalize(student, dim=1)).pow(2).sum(dim=1)


# The papers' distances as they are usually written; any other is the fused detector's.
_USUAL_DISTANCES = {Distance.COSINE: _cosine, Distance.HALF_SQUARED_L2: _half_squared_l2}


def _confirmation(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    extent = flat.max(dim=1).values - flat.min(dim=1).values
    confirmed: Tensor = maps * (extent / flat.norm(dim=1).clamp_min(1e-10))[:, None, None]
    return confirmed


def _blurred(maps: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.stack([gaussian_filter(map_, sigma=sigma) for map_ in maps]) if sigma > 0 else maps
