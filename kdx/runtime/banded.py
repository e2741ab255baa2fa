"""Verdicts on frames that are too large for the memory: read, judged and decided in bands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdx.decision.band_regions import BandRegions
from kdx.decision.regions import Region, regions_of, require_sizes
from kdx.decision.verdict import Verdict
from kdx.errors import InputError
from kdx.imaging.bands import BandedFrame, has_bands
from kdx.imaging.images import read_image
from kdx.runtime.tiled import Tiled

if TYPE_CHECKING:
    from kdx.runtime.detector import Detector


@dataclass(frozen=True)
class BandedVerdict:
    """The verdict on a frame that was read in bands.

    Attributes:
        verdict: The verdict, whose ``anomaly_map`` holds the largest value in each row of the map,
            ``(h, 1)``.
        regions: The regions above the pixel threshold, or None without one.
        samples: The pixels by which the frame was checked, uint8 ``(h, w, C)``.
    """

    verdict: Verdict
    regions: list[Region] | None
    samples: NDArray[np.uint8]


def is_read_in_bands(detector: Detector, path: Path) -> bool:
    """Whether a detector reads a file in bands: its frames may be too large for the memory."""
    return has_bands(detector.input, path)


def judge_path(detector: Detector, path: Path) -> tuple[Verdict, NDArray[np.uint8]]:
    """Return the verdict on a file, which is read whole or in bands.

    Returns:
        The verdict, and the frame, or the pixels by which it was checked, uint8 ``(h, w, C)``.

    Raises:
        ImageError: The file cannot be read.
    """
    if is_read_in_bands(detector, path):
        judged = detector.judge_file(path)
        return judged.verdict, judged.samples
    image = read_image(path, detector.input)
    return detector(image), image


def judge_in_bands(
    detector: Detector, path: Path, *, min_area: float = 0.0, pixel_size_um: float | None = None
) -> BandedVerdict:
    """Judge a frame in a striped or tiled TIFF file without holding it, or its map, in memory.

    Score, decision and regions equal those of the same frame in memory exactly: the same tiles go
    through the graph in the same batches, and their maps are blended in the same order.

    Args:
        detector: A detector of tiles.
        path: The file.
        min_area: As for :meth:`kdx.Detector.regions`.
        pixel_size_um: As for :meth:`kdx.Detector.regions`.

    Raises:
        ImageError: The file cannot be read in bands.
        InputError: The detector judges no tiles, or its bundle has a region of interest or a level
            map, which are as large as the frame.
        OptionError: An invalid area or pixel size.
        ImportError: The package ``tifffile`` is not installed.
    """
    require_sizes(min_area, pixel_size_um)
    backend = detector.backend
    if not isinstance(backend, Tiled):
        raise InputError("only frames that are cut into tiles are read in bands", fix="export the run with `tile`")
    if detector.roi is not None or detector.level is not None:
        raise InputError(
            "frames that are read in bands have no region of interest and no level map",
            fix="remove it: kdx roi BUNDLE --remove, or kdx calibrate BUNDLE DATA without --per-position",
        )
    threshold = detector.pixel_threshold
    found = None if threshold is None else BandRegions(threshold)
    highest: list[NDArray[np.float32]] = []
    with BandedFrame(path, detector.input) as frame:
        bands = backend.run_in_bands(frame)
        for first_row, band in bands:
            highest.append(band.max(axis=1, keepdims=True))
            if found is not None:
                found.add(first_row, band)
        samples = frame.samples
    rows = np.concatenate(highest)
    score = rows.max() if bands.is_sound else np.float32(np.nan)
    verdict = detector.verdict(rows, np.array([score], np.float32), samples)
    regions = None
    if found is not None and not (verdict.reason is not None and verdict.reason.is_of_answer):
        regions = regions_of(
            found.patches,
            backend.stitcher.map_size,
            (detector.input.height, detector.input.width),
            min_area=min_area,
            pixel_size_um=pixel_size_um,
        )
    return BandedVerdict(verdict, regions, samples)
