"""The heat maps that ``kdx predict`` writes: a PNG for each image and bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdx.errors import OutputError
from kdx.runtime.heat_map import heat_map
from kdx.storage.files import refuse_existing, write_atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdx.decision.verdict import Verdict
    from kdx.runtime.detector import Detector


class HeatMaps:
    """Writes heat maps; several bundles have a folder each.

    Args:
        folder: The folder of all heat maps.
        paths: The images.
        bundles: The names of the bundles.
        force: Whether to replace files that exist.

    Raises:
        OutputError: A file exists, or would replace an image.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], bundles: Sequence[str], *, force: bool) -> None:
        names = _names(paths)
        several = len(bundles) > 1
        self._targets = {
            (path, name): (folder / name if several else folder) / names[path] for path in paths for name in bundles
        }
        images = {Path(os.path.realpath(path)) for path in paths}
        for (path, _), target in self._targets.items():
            if target.resolve() in images:
                raise OutputError(
                    f"the heat map of '{path}' would replace an image", fix="choose another folder for `overlay`"
                )
            refuse_existing(target, force=force)

    def begin(self) -> None:
        """Make the folders, and remove what an earlier call wrote: an image may be skipped now."""
        for target in self._targets.values():
            target.unlink(missing_ok=True)
        for folder in dict.fromkeys(target.parent for target in self._targets.values()):
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, path: Path, bundle: str, image: NDArray[np.uint8], verdict: Verdict, detector: Detector) -> Path:
        """Write the heat map of a verdict, and return its path.

        Raises:
            OSError: The file cannot be written.
        """
        target = self._targets[path, bundle]
        write_atomic(target, heat_map(detector, image, verdict, path.name))
        return target


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name each heat map after its image, and its folders if several images have that name."""
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        by_stem.setdefault(path.stem, []).append(path)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        alike = by_stem[path.stem]
        name = path.stem if len(alike) == 1 else _distinct_name(path, alike)
        while name in taken:
            name += "_"
        taken.add(name)
        names[path] = f"{name}.png"
    return names


def _distinct_name(path: Path, alike: list[Path]) -> str:
    """Name an image by as many of the folders around it as tell it from the others."""
    parts, *others = ([*each.absolute().parts][1:] for each in (path, *(other for other in alike if other != path)))
    depth = 2
    while depth < len(parts) and any(other[-depth:] == parts[-depth:] for other in others):
        depth += 1
    return "-".join(parts[-depth:])
