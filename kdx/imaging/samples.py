"""Images as a graph takes them: brought to its input or, of large frames, a tile of each."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from kdx.imaging.images import InputSpec, image_facts, read_image
from kdx.imaging.tiling import Tiling


def read_sample(path: Path, spec: InputSpec, tiling: Tiling | None = None, place: float = 0.0) -> NDArray[np.uint8]:
    """Read an image, uint8 ``(H, W, C)``, as a graph takes it, also where it was exported for another camera.

    Args:
        path: The file.
        spec: What the graph accepts.
        tiling: How frames are cut for it, or None.
        place: Which tile of a frame, from 0 to below 1: spread over all places.

    Raises:
        ImageError: It cannot be read.
    """
    if tiling is not None:
        width, height, _ = image_facts(path)
        if (height, width) == tiling.frame:
            whole = read_image(path, msgspec.structs.replace(spec, height=height, width=width))
            corners = [(row, column) for row in tiling.rows for column in tiling.columns]
            row, column = corners[int(place * len(corners))]
            return np.ascontiguousarray(whole[row : row + spec.height, column : column + spec.width])
    return read_image(path, msgspec.structs.replace(spec, fixed_size=False))
