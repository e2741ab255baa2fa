"""Many threads on one detector: the same answers as one thread gets, to the bit.

Run as a script with a backend and its bundle as JSON; prints what came of it.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kdx
from kdx.decision.verdict import Verdict
from kdx.errors import BackendError
from kdx.runtime.detector import Detector

# A thread that is not through by then hangs.
_PATIENCE_SECONDS = 300.0
Answer = tuple[float, bytes, str]


@dataclass
class Threaded:
    """What came of it.

    Attributes:
        threads: How many worked at once.
        calls: Calls that were answered.
        refused: Calls that a closed detector refused.
        differing: Answers that were not those of a single thread.
        errors: What threads raised, in words, and threads that hang.
    """

    threads: int
    calls: int = 0
    refused: int = 0
    differing: int = 0
    errors: list[str] = field(default_factory=list)


def hammer(detector: Detector, images: NDArray[np.uint8], calls: int) -> Threaded:
    """Let as many threads as there are images judge each its own, so often, on one detector."""
    expected = [_answer(detector(image)) for image in images]
    found = Threaded(len(images))
    lock = threading.Lock()

    def work(index: int) -> None:
        for _ in range(calls):
            same = _answer(detector(images[index])) == expected[index]
            with lock:
                found.calls += 1
                found.differing += not same

    run_threads(len(images), work, found)
    return found


def close_while_judging(load: Callable[[], Detector], images: NDArray[np.uint8], calls: int) -> Threaded:
    """Close a detector while threads use it: each call gives the right answer or is refused."""
    with load() as detector:
        expected = [_answer(detector(image)) for image in images]
    found = Threaded(len(images) + 1)
    lock = threading.Lock()
    detector = load()
    half = threading.Semaphore(0)

    def work(index: int) -> None:
        if index == len(images):
            for _ in range(len(images)):  # everyone is at it
                half.acquire()
            detector.close()
            return
        for call in range(calls):
            if call == 1:
                half.release()
            try:
                same = _answer(detector(images[index])) == expected[index]
            except BackendError:
                with lock:
                    found.refused += 1
                continue
            with lock:
                found.calls += 1
                found.differing += not same

    run_threads(len(images) + 1, work, found)
    return found


def load_and_close(load: Callable[[], Detector], images: NDArray[np.uint8], threads: int, rounds: int) -> Threaded:
    """Load, judge and close in several threads at once."""
    with load() as detector:
        expected = [_answer(detector(image)) for image in images]
    found = Threaded(threads)
    lock = threading.Lock()

    def work(index: int) -> None:
        for turn in range(rounds):
            which = (index + turn) % len(images)
            with load() as own:
                same = _answer(own(images[which])) == expected[which]
            with lock:
                found.calls += 1
                found.differing += not same

    run_threads(threads, work, found)
    return found


def run_threads(count: int, work: Callable[[int], Any], found: Threaded) -> None:
    """Start threads together and wait for all; what they raise becomes an error."""
    start = threading.Barrier(count)

    def guarded(index: int) -> None:
        try:
            start.wait()
            work(index)
        except Exception as error:
            found.errors.append(f"thread {index}: {error!r}")

    threads: Sequence[threading.Thread] = [
        threading.Thread(target=guarded, args=(index,), daemon=True) for index in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE_SECONDS)
        if thread.is_alive():
            found.errors.append(f"{thread.name} hangs")


def _answer(verdict: Verdict) -> Answer:
    return verdict.score, verdict.anomaly_map.tobytes(), verdict.decision.value


def _job(bundle: str, backend: str, precision: str, threads: int, images: str, workers: int, calls: int, rounds: int):  # type: ignore[no-untyped-def]
    frames = np.load(images)[:workers]

    def load() -> Detector:
        return kdx.load(bundle, backend=backend, threads=threads, precision=precision)

    with load() as detector:
        together = hammer(detector, frames, calls)
    return {
        "backend": backend,
        "precision": precision,
        "one detector": asdict(together),
        "closed meanwhile": [asdict(close_while_judging(load, frames, calls // rounds)) for _ in range(rounds)],
        "loaded and closed": asdict(load_and_close(load, frames, workers // 2, rounds)),
    }


def main(arguments: Sequence[str]) -> None:
    """Carry out the job of a file."""
    print(json.dumps([_job(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))]))


if __name__ == "__main__":
    main(sys.argv[1:])
