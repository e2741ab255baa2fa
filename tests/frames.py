"""Frames larger than the networks' input: real cells, some with a scratch that is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.images import cell_paths

FRAME = (96, 160)
TILE = 64


def write_frames(root: Path, counts: dict[str, int]) -> Path:
    """Write cells as large frames; on defective ones a scratch, with its mask."""
    paths = iter(cell_paths())
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            frame = np.asarray(Image.open(next(paths)).convert("L").resize(FRAME[::-1])).copy()
            if "scratch" in name:
                mask = np.zeros_like(frame)
                mask[60:64, 100:140] = 255
                frame[mask > 0] = 255
                (root / "ground_truth/scratch").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / f"ground_truth/scratch/{index:03d}_mask.png")
            Image.fromarray(frame).save(root / name / f"{index:03d}.png")
    return root
