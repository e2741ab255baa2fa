"""Measures the border weights of a trained pair on good images that it was trained on."""

from __future__ import annotations

import torch

from kd_export.graph.border import scoring_maps, weights_of_level
from kd_train.data.image_set import ImageSet
from kd_train.training.run_folder import Run
from kd_train.training.trained_pair import fuse, load_pair
from kdx.progress import Progress

_MOST_IMAGES = 256


def measure_border_weights(run: Run, images: ImageSet, progress: Progress) -> tuple[tuple[float, ...], ...]:
    """Return the border weights of each map of a run's pair; none for maps that make no score.

    Held-out images are left to the calibration: had they set the weights, their scores would be
    lower than those of further parts.

    Args:
        run: The run, whose students are trained.
        images: The images that they were trained on; some are used, evenly spread.
        progress: The progress display.
    """
    detector = fuse(run.config, load_pair(run)[0])
    chosen = images.spread(_MOST_IMAGES)
    sums = [torch.zeros(detector.size, dtype=torch.float64) for _ in scoring_maps(detector.spec)]
    with progress.task("border weights", len(chosen)) as task, torch.inference_mode():
        for index in chosen:
            image = torch.from_numpy(images[index][None])
            for total, maps in zip(sums, detector.unweighted_maps(image), strict=True):
                total += maps[0].double().square()
            task.advance()
    return tuple(
        weights_of_level(total.numpy() / len(chosen)) if scores else ()
        for total, scores in zip(sums, scoring_maps(detector.spec), strict=True)
    )
