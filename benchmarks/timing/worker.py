"""The worker of ``turns.py``: one candidate in a process that waits on a socket for its turn.

Run as a script with the number of an inherited socket. It needs numpy alone, so that it runs in a
candidate's own environment; messages are JSON, so that both sides may be different Pythons; and
they have a socket to themselves, so that a library may print what it likes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Generator, Iterator
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing.memory import peak_memory_mb

Predict = Callable[[NDArray[np.uint8]], Any]


def main() -> None:
    """Answer the coordinator until it hangs up."""
    with Connection(int(sys.argv[1])) as connection:
        answers = answer(json.loads(connection.recv_bytes()))
        try:
            result = next(answers)
            while True:
                connection.send_bytes(json.dumps(result).encode())
                result = answers.send(json.loads(connection.recv_bytes()))
        except (EOFError, ConnectionError):  # nobody waits any more
            return
        # A candidate may raise whatever it likes: it is what the coordinator wants to know.
        except Exception as error:
            connection.send_bytes(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())


def answer(order: dict[str, Any]) -> Generator[dict[str, Any], dict[str, Any], None]:
    """Load a candidate, then make as many calls as each message says.

    Yields first ``load_ms`` and ``score``, then ``times_ms`` of one turn after the other; each with
    ``peak_memory_mb``.
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
    """Return the first number of what a candidate returned."""
    return float(np.asarray(result).reshape(-1)[0])


if __name__ == "__main__":
    main()
