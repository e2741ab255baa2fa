"""Good images and synthetic defects on which BF16 and INT8 must keep FP32's verdicts.

Images are read, and defects drawn, at each iteration with the same result, so they need not fit
into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kd_train.data.synthetic import KINDS, draw_within
from kdx.imaging.images import InputSpec
from kdx.imaging.samples import evenly, plan_of, read_sample
from kdx.imaging.tiling import Tiling

# If none of 400 verdicts flips, the rate of flips is below 0.75 % with 95 % confidence.
_MOST = 200
# Several defects are drawn on each good image where there are few, and several tiles are taken of
# each frame.
_DEFECTS_EACH, _TILES_EACH = 3, 4


class Images(Protocol):
    """Images by index, uint8 ``(H, W, C)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> NDArray[np.uint8]: ...


class GoodImages:
    """Good images as the graph takes them: whole, or some tiles of each file, as many of each.

    Args:
        paths: The paths of the files.
        spec: The input that the graph accepts.
        tiling: The plan by which frames are cut into tiles, or None.

    Raises:
        ImageError: With tiles: the header of a file cannot be read.
    """

    def __init__(self, paths: Sequence[Path], spec: InputSpec, tiling: Tiling | None = None) -> None:
        self._paths = evenly(paths, _MOST)
        self._spec, self._tiling = spec, tiling
        plans = [] if tiling is None else [plan_of(path, spec, tiling) for path in self._paths]
        self._each = min([_TILES_EACH if plans else 1, *(plan.count if plan else 1 for plan in plans)])

    @property
    def frames(self) -> int:
        """The number of files; images repeat in their order."""
        return len(self._paths)

    def __len__(self) -> int:
        return min(_MOST, self._each * len(self._paths))

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        # The index runs through all files before it reaches a second tile of one, at another place
        # in the frame.
        place = (index / len(self)) if self._tiling is not None else 0.0
        return read_sample(self._paths[index % len(self._paths)], self._spec, self._tiling, place)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return (self[index] for index in range(len(self)))


class DrawnDefects:
    """Good images with synthetic defects.

    Where there are few images, each is used with every kind of defect.

    Args:
        good: The good images.
        seed: The seed of kinds, sizes and places.
        spec: What says which window of the images is seen; None where all of it is.
        stream: Another number draws other sizes and places.
    """

    def __init__(self, good: Images, seed: int, spec: InputSpec | None = None, stream: int = 0) -> None:
        self._good, self._seed, self._spec, self._stream = good, seed, spec, stream

    def __len__(self) -> int:
        return min(_MOST, _DEFECTS_EACH * len(self._good)) if len(self._good) > 1 else 0

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        kinds, count = list(KINDS.values()), len(self._good)
        for index in range(len(self)):
            rng = np.random.default_rng([self._seed, index, *([self._stream] if self._stream else [])])
            other = (index + 1 + int(rng.integers(count - 1))) % count
            # Each round through the images goes on by one kind, whatever their number.
            draw = kinds[(index % count + index // count) % len(kinds)]
            yield draw_within(draw, self._good[index % count], self._good[other], rng, self._spec)[0]
