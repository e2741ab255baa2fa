"""The images that a detector was trained on, whatever it lies in."""

from __future__ import annotations

from pathlib import Path

from kdx.bundle.open import open_bundle
from kdx.imaging.image_identity import KnownImages
from kdx.loading.load import is_run


def images_trained_on(detector: Path) -> KnownImages:
    """Return the images that a run or a bundle was trained on."""
    if not is_run(detector):
        return open_bundle(detector).training_images()
    from kd_train.training.run_folder import Run

    return Run(detector).config.known_images()
