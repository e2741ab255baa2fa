"""The heat map of a verdict as a picture: the image, its map, and the outlines of regions."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdx.decision.overlay import render_overlay

if TYPE_CHECKING:
    from kdx.decision.verdict import Verdict
    from kdx.runtime.detector import Detector


def heat_map(detector: Detector, image: NDArray[np.uint8], verdict: Verdict, name: str) -> bytes:
    """Return a heat map as PNG.

    Args:
        detector: The detector that judged the image.
        image: The image as the detector took it, uint8 ``(H, W, C)``.
        verdict: The verdict.
        name: What the picture is titled with.
    """
    is_bgr = detector.input.channel_order == "bgr" and image.shape[2] == 3
    included = detector.roi.included if detector.roi else None
    buffer = io.BytesIO()
    rgb = image[..., ::-1] if is_bgr else image
    render_overlay(rgb, verdict, name, detector.view, included).save(buffer, format="PNG")
    return buffer.getvalue()
