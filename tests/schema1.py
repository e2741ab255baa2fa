"""Bundles that kdx wrote in schema 1, and what it said with them then. They must keep loading and
deciding so.

``tests/fixtures/schema1`` holds three bundles of the tiny backbone: ``stpm`` in every precision
with a review band, ``level`` with a region of interest and a level map, ``tiled`` for frames of 96
× 160. ``verdicts.json`` holds scores and decisions of some images in each backend, on a CPU with
AVX-512 BF16.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from kdx.runtime.machine import cpu_features

FIXTURES = Path(__file__).parent / "fixtures" / "schema1"
NAMES = ("stpm", "level", "tiled")
# Other CPUs sum in another order, and have other integer instructions.
SCORES_WITHIN = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 3e-2, "int8": 1e-1}
_SHARED_GRAPHS = ("model.onnx", "model.int8.onnx")


class Said(msgspec.Struct, frozen=True):
    """Score and decision of an image."""

    score: float
    decision: str


class Recorded(msgspec.Struct, frozen=True):
    """What one backend said in one precision, by image."""

    backend: str
    precision: str
    threshold: float
    review_threshold: float | None
    verdicts: dict[str, Said]

    def is_clear(self, image: str) -> bool:
        """Whether an image's score is so far from the thresholds that every CPU decides it
        alike."""
        limits = [one for one in (self.threshold, self.review_threshold) if one is not None]
        score = self.verdicts[image].score
        return all(abs(score / limit - 1) > SCORES_WITHIN[self.precision] for limit in limits)


def old_bundle(name: str, folder: Path) -> Path:
    """Copy a bundle of schema 1 into a folder and return its path; ``level`` has the graphs of
    ``stpm``."""
    bundle = Path(shutil.copytree(FIXTURES / name, folder / f"{name}.kdx"))
    if name == "level":
        for graph in _SHARED_GRAPHS:
            shutil.copy(FIXTURES / "stpm" / graph, bundle / graph)
    return bundle


def recorded(name: str) -> list[Recorded]:
    """Return what was said with a bundle, as far as this CPU can say the same.

    In schema 1, INT8 activations are signed. Without VNNI, sums of their products are saturated.
    """
    said = msgspec.json.decode((FIXTURES / "verdicts.json").read_bytes(), type=dict[str, list[Recorded]])[name]
    saturates = not {"avx512_vnni", "avx_vnni", "asimddp"}.intersection(cpu_features())
    return [each for each in said if each.precision != "int8" or not saturates]
