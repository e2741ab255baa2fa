"""The worker of the GPU benchmark: one candidate in a process of its own.

It needs kdx, numpy and the candidate's runtime alone, so that TensorRT may belong to another
interpreter than PyTorch.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.candidates import load, load_detector
from benchmarks.gpu.gpu_machine import PACKAGES
from benchmarks.timing.process import serve
from kdx.bundle.bundle import Golden
from kdx.bundle.open import open_bundle
from kdx.decision.rule import DecisionRule
from kdx.errors import KdxError
from kdx.runtime.detector import Detector
from kdx.runtime.machine import package_versions
from kdx.verification.comparison import Comparison, compare_batch
from kdx.verification.tolerances import FP32, TOLERANCES


class Worker:
    """A candidate of one method at one batch size after the other."""

    def __init__(self) -> None:
        self._backend: Any = None

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Do what a message says, ``open``, ``turn`` or ``kernels``, with its other fields."""
        try:
            return dict(getattr(self, message.pop("do"))(**message))
        except KdxError as error:
            said = "; ".join(part for part in (error.message, error.received, error.fix) if part)
            return {"error": f"{type(error).__name__}: {said}"}

    def open(self, *, backend: str, precision: str, folder: str, batch: int, device: str) -> dict[str, Any]:
        """Load a candidate, and compare it with FP32 on the golden images at this batch size."""
        self._release()
        started = time.perf_counter()
        bundle = open_bundle(folder)
        self._images, self._first = bundle.golden().images, 0
        self._batch = batch
        self._backend = load(backend, precision, Path(folder), batch, device)
        seconds = time.perf_counter() - started
        parity = compare(self._backend, bundle.golden(), batch, precision)
        self._detector = Detector(self._backend, bundle.manifest.input, DecisionRule(threshold=1.0), max_batch=batch)
        return {
            "load_seconds": round(seconds, 2),
            "parity": msgspec.to_builtins(parity),
            "failure": "" if parity.passed else _difference(parity),
            "versions": {"python": sys.version.split()[0], **package_versions(PACKAGES)},
        }

    def turn(self, *, settle: int, calls: int) -> dict[str, Any]:
        """Return the milliseconds of so many calls, of compute alone and end to end each.

        ``settle`` calls before them are not counted. Each turn takes the next of the real images.
        """
        images = np.ascontiguousarray(
            np.take(self._images, range(self._first, self._first + self._batch), 0, mode="wrap")
        )
        self._first += self._batch
        self._backend.compute_only(images, settle)
        compute = self._backend.compute_only(images, calls)
        for _ in range(min(settle, 20)):
            self._judge(images)
        end_to_end = []
        for _ in range(calls):
            started = time.perf_counter()
            self._judge(images)
            end_to_end.append((time.perf_counter() - started) * 1e3)
        return {"compute": compute, "end_to_end": end_to_end}

    def kernels(self, *, folder: str) -> dict[str, Any]:
        """Time this repository's fused tail and grouped networks against those in the graph."""
        from kernels.measure import time_detector

        found = time_detector(load_detector(Path(folder)), open_bundle(folder).golden().images[:1])
        difference = found["max_difference"]
        off = "" if difference <= FP32.map else f"off by {difference:.2g} of the map, {FP32.map:g} are allowed"
        return {"failure": off, "found": found}

    def _judge(self, images: NDArray[np.uint8]) -> None:
        if len(images) == 1:
            self._detector(images[0])
        else:
            self._detector.batch(images)

    def _release(self) -> None:
        """Free what was loaded before, with compiled code and the memory that PyTorch keeps."""
        if self._backend is None:
            return
        self._backend.close()
        self._backend = self._detector = None
        gc.collect()
        if "torch" in sys.modules:
            import torch

            # PyTorch compiles a function for so many modules only, and then runs it eagerly.
            torch.compiler.reset()
            torch.cuda.empty_cache()


def compare(backend: Any, golden: Golden, batch: int, precision: str) -> Comparison:
    """Compare a backend with the reference; images repeat, so that every batch is full."""
    index = np.arange(-(-len(golden.images) // batch) * batch) % len(golden.images)
    names = [golden.names[i] for i in index]
    filled = Golden(names, golden.images[index], golden.maps[index], golden.scores[index])
    return compare_batch(backend, filled, batch, None, precision)


def _difference(parity: Comparison) -> str:
    allowed = TOLERANCES[parity.precision]
    return parity.error or (
        f"scores differ by {parity.score_max:.2g}, maps by {parity.map_max:.2g} of their range; "
        f"{allowed.score:g} and {allowed.map:g} are allowed"
    )


if __name__ == "__main__":
    serve(Worker().answer)
