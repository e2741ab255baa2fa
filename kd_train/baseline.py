"""What people run today, for ``kdx bench`` to be held against; nothing else uses it.

Eager PyTorch in FP32 with every step apart: normalisation, both networks with their batch normalisations,
``F.normalize``, ``F.interpolate`` per tap, the product or sum, and ``scipy.ndimage.gaussian_filter`` on the map.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from kd_export.graph import Combine, Distance, ScoreRule
from kd_train.load import fuse, load_pair
from kd_train.pair import Pair
from kd_train.run import Run
from kdx.bundle import Manifest
from kdx.errors import CheckpointError
from kdx.images import InputSpec
from kdx.runtime.backend import Backend, ClosesOnExit, Outputs
from kdx.runtime.torch_eager import TorchEager


def eager_candidates(run: Run, manifest: Manifest, threads: int) -> list[Backend]:
    """Return what a bundle is timed against: the naive loop, and the fused detector in eager PyTorch.

    Raises:
        CheckpointError: The bundle was not exported from this run.
    """
    for which in ("last", "best"):
        if run.checkpoint(which).sha256 == manifest.provenance.checkpoint_sha256:
            pair, _ = load_pair(run, which)
            baseline = EagerBaseline(pair, manifest.input, manifest.map_size, threads)
            return [baseline, TorchEager(fuse(run.config, pair, manifest.input), threads)]
    raise CheckpointError(
        f"the bundle was not exported from '{run.path}'",
        expected=f"checkpoint {manifest.provenance.checkpoint_sha256[:16]}",
        received=f"checkpoint {run.checkpoint('last').sha256[:16]}",
        fix="name the run it was exported from, or export again",
    )


class EagerBaseline(ClosesOnExit):
    """The naive loop as a backend, so that it is timed like one.

    Args:
        pair: A trained pair, as it was trained.
        input_spec: What comes from the camera.
        size: Height and width at which the networks run.
        threads: Threads of PyTorch, for the whole process.
    """

    name = "eager baseline"

    def __init__(self, pair: Pair, input_spec: InputSpec, size: tuple[int, int], threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.pair = pair.eval()
        self.input_spec = input_spec
        self.size = size
        self.mean = torch.tensor(pair.mean).view(1, 3, 1, 1)
        self.std = torch.tensor(pair.std).view(1, 3, 1, 1)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Run a batch; see :class:`kdx.runtime.backend.Backend`."""
        with torch.inference_mode():
            combined = self._combine(self.pair(self._prepare(images)))
        maps = combined[:, 0].numpy()
        sigma = self.pair.spec.blur_sigma
        if sigma > 0:
            maps = np.stack([gaussian_filter(map_, sigma=sigma) for map_ in maps])
        flat = maps.reshape(len(maps), -1)
        scores = flat.max(axis=1) if self.pair.spec.score is ScoreRule.MAX else flat.sum(axis=1)
        return Outputs(maps, scores[:, None])

    def _prepare(self, images: NDArray[np.uint8]) -> Tensor:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        if self.input_spec.channels == 1:
            x = x.expand(-1, 3, -1, -1)
        elif self.input_spec.channel_order == "bgr":
            x = x.flip(1)
        if x.shape[2:] != self.size:
            x = F.interpolate(x, size=self.size, mode="bilinear", antialias=True, align_corners=False)
        return (x - self.mean) / self.std

    def _combine(self, features: list[tuple[Tensor, Tensor]]) -> Tensor:
        combined: Tensor | None = None
        spec = self.pair.spec
        for (teacher, student), tap in zip(features, spec.taps, strict=True):
            if tap.distance is Distance.COSINE:
                distance = 1 - F.cosine_similarity(teacher, student, dim=1)
            else:
                distance = 0.5 * (F.normalize(teacher, dim=1) - F.normalize(student, dim=1)).pow(2).sum(dim=1)
            part = F.interpolate(distance[:, None], size=self.size, mode="bilinear", align_corners=False)
            if combined is None:
                combined = part * (tap.weight if spec.combine is Combine.SUM else 1.0)
            else:
                combined = combined + tap.weight * part if spec.combine is Combine.SUM else combined * part
        assert combined is not None
        return combined

    def close(self) -> None:
        """Hold on to nothing."""
