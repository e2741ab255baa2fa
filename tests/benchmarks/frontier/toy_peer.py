"""A peer as small as one can be: its model is the brightness of an image."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frontier.loaders import Judge, Judged


def build(options: Any, folder: Path) -> tuple[float, dict[str, Any], dict[str, Callable[[], Path]]]:
    """Write how many images there are, as every export but one that fails."""

    def written(name: str) -> Path:
        path = folder / name
        path.write_text(str(len(list((folder / "train").iterdir()))), encoding="utf-8")
        path.with_suffix(".bin").write_bytes(bytes(100))
        return path

    def broken() -> Path:
        raise ValueError("no such\nlayer")

    return 1.5, {"seed": options.seed}, {"good": lambda: written("fp32.xml"), "broken": broken}


def brightness(arguments: dict[str, Any]) -> Judge:
    """Judge by the brightest pixel."""
    assert Path(arguments["model"]).read_text(encoding="utf-8") == "6"

    def judge(images: Any) -> Judged:
        found = images[0].mean(-1).astype(np.float32)
        return float(found.max()), found

    return judge


def crash(arguments: dict[str, Any]) -> Judge:
    """Die as a runtime does that cannot compile a graph."""
    os.abort()
