"""The worker of ``turns.py``: one candidate in a process that waits on a socket for its turn.

It needs numpy alone, so that it runs in a candidate's own environment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing.memory import peak_memory_mb
from benchmarks.timing.process import serve

Predict = Callable[[NDArray[np.uint8]], Any]


def main() -> None:
    """Answer the coordinator until it hangs up."""
    begun: list[Generator[dict[str, Any], dict[str, Any], None]] = []

    def turn(message: dict[str, Any]) -> dict[str, Any]:
        if begun:
            return begun[0].send(message)
        begun.append(answer(message))
        return next(begun[0])

    serve(turn)


def answer(order: dict[str, Any]) -> Generator[dict[str, Any], dict[str, Any], None]:
    """Load a candidate, then make as many calls as each message says.

    Yields first ``load_ms`` and ``score``, then ``times_ms`` of one turn after the other; each with
    ``peak_memory_mb``. A message may instead name images to ``judge``, and the file for what is
    ``found``: scores and maps, of candidates that return both.
    """
    images = np.asarray(np.load(order["images"], mmap_mode="r"))  # a plain array: runtimes know no memmap
    batches = _batches(images, order["batch"])
    first = next(batches)
    started = time.perf_counter()
    module, function = order["loader"].split(":")
    # The import counts: whoever starts a line PC waits for it.
    predict: Predict = getattr(import_module(module), function)(order["arguments"])
    result = predict(first)
    load_ms = (time.perf_counter() - started) * 1e3
    turn = yield {"load_ms": load_ms, "score": score_of(result), "peak_memory_mb": peak_memory_mb()}
    while True:
        if "judge" in turn:
            results = [predict(image[None]) for image in np.load(turn["judge"])]
            scores, maps = ([result[part] for result in results] for part in (0, 1))
            np.savez(turn["found"], scores=np.array(scores, np.float32)[:, None], maps=np.array(maps, np.float32))
            turn = yield {}
            continue
        for _ in range(turn["settle"]):
            predict(next(batches))
        times = []
        for _ in range(turn["calls"]):
            batch = next(batches)
            started = time.perf_counter()
            predict(batch)
            times.append((time.perf_counter() - started) * 1e3)
        turn = yield {"times_ms": times, "peak_memory_mb": peak_memory_mb()}


def _batches(images: NDArray[np.uint8], batch: int) -> Iterator[NDArray[np.uint8]]:
    """Yield batches without end, each in fresh memory, as a camera's driver hands them over."""
    start = 0
    while True:
        yield images[[(start + index) % len(images) for index in range(batch)]]
        start += batch


def score_of(result: Any) -> float:
    """Return the first number of what a candidate returned: scores, or a score and a map."""
    return float(np.asarray(result[0] if isinstance(result, tuple) else result).reshape(-1)[0])


if __name__ == "__main__":
    main()
