"""The most memory that a process ever holds which loads a bundle and judges an image: ``python -m ... BUNDLE``."""

from __future__ import annotations

import sys

import kdx
from benchmarks.timing.memory import peak_memory_mb


def main() -> None:
    """Load the bundle as line software does, judge an image ten times, and print the bytes."""
    detector = kdx.load(sys.argv[1], threads=1)
    image = kdx.open_bundle(sys.argv[1]).golden().images[0]
    for _ in range(10):
        detector(image)
    print(round(peak_memory_mb() * 1e6))


if __name__ == "__main__":
    main()
