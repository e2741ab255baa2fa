"""Names of the files that ``kdx predict`` writes: those of the images, from a common folder on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdx.errors import OptionError


def relative_names(paths: Sequence[Path]) -> tuple[Path, dict[Path, str]]:
    """Return the innermost folder around all images, and each one's path in it, with slashes."""
    absolute = {path: Path(os.path.abspath(path)) for path in paths}  # noqa: PTH100 - links are kept
    if len({path.drive for path in absolute.values()}) > 1:  # Windows
        return Path(), {path: _without_drive(each) for path, each in absolute.items()}
    root = Path(os.path.commonpath([each.parent for each in absolute.values()])) if absolute else Path()
    return root, {path: each.relative_to(root).as_posix() for path, each in absolute.items()}


def _without_drive(path: Path) -> str:
    return f"{path.drive.strip(':').strip(chr(92))}/{path.relative_to(path.anchor).as_posix()}"


def require_distinct(names: Mapping[Path, str], *, yolo: bool) -> None:
    """Raise ``OptionError`` if two images have one name, or one without the suffix for YOLO."""
    by_file: dict[str, Path] = {}
    for path, name in names.items():
        other = by_file.setdefault(str(Path(name).with_suffix("")) if yolo else name, path)
        if other != path and names[other] == name:
            raise OptionError(
                f"'{other}' and '{path}' would have the same files",
                expected="every image once, in one spelling",
                fix="leave one of them out",
            )
        if other != path:
            raise OptionError(
                f"'{other}' and '{path}' would have one file of labels, for YOLO names it after the image",
                expected="images of different names, whatever their suffixes are",
                fix="rename one of them, or write COCO's format (`coco=True`)",
            )
