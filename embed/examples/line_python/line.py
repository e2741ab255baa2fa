"""A complete inspection line in Python: camera, bounded queue, inference process and watchdog.

    python line.py BUNDLE FRAMES [--fps 20] [--frames 100] [--queue 4] [--timeout-ms 200]
                                 [--threads 1]

The line stops after --frames frames; with 0 it runs until it is interrupted.

The camera (here: a folder of images in a loop) writes its frames into shared memory, and the
inference process reads them there. So no pixel is copied between processes, and a crash of the
runtime does not stop the line. If frames arrive faster than they are judged, the OLDEST waiting
frame is dropped: its part passes the reject gate first. A verdict that comes later than
--timeout-ms after its frame is too late for the gate. Every dropped, late or failed part is written
as "undecided", and an inference process that dies or hangs is replaced.

The program writes one JSON line per part, and a summary to standard error. Exit status 0: every
part was judged in time; 1: some parts were not; 2: the line could not start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import signal
import statistics
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import kdx

# Spawned, so that the child inherits nothing from the parent except its arguments.
PROCESSES = multiprocessing.get_context("spawn")
POLL_SECONDS = 0.005
MOST_FAILED_STARTS = 3
START_SECONDS = 120.0  # the first start on a machine measures every backend
LEAST_HANG_MS = 2000.0  # the shortest time after which a process is considered hung; a restart takes about as long
READY = True


def infer(
    pipe: Connection, memory: str, shape: tuple[int, ...], bundle: str, backend: str, threads: int, metrics_port: int
) -> None:
    """Receive (part, slot); send verdict, score, faults, reason and time, or an error's message."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the line stops it
    frames = SharedMemory(memory)
    slots: NDArray[np.uint8] = np.ndarray(shape, np.uint8, frames.buf)
    if metrics_port:
        from prometheus_client import start_http_server  # pip install "kdx[metrics]"

        start_http_server(metrics_port)
    with kdx.load(bundle, backend=backend, threads=threads, metrics=True if metrics_port else None) as detector:
        detector(slots[0])  # the first call is slow
        pipe.send(READY)
        while (task := pipe.recv()) is not None:
            _, slot = task
            started = time.perf_counter()
            try:
                verdict = detector(slots[slot])
            except kdx.KdxError as error:  # this frame has no verdict; the next call may succeed
                pipe.send(error.message)
                continue
            milliseconds = (time.perf_counter() - started) * 1e3
            faults = [fault.value for fault in verdict.frame_faults]
            # JSON has no NaN; the reason explains the missing score.
            score = verdict.score if math.isfinite(verdict.score) else None
            reason = verdict.reason.value if verdict.reason else None
            pipe.send((verdict.decision.value, score, faults, reason, milliseconds))
    del slots
    frames.close()


@dataclass
class Waiting:
    """A part that has no answer yet."""

    part: int
    slot: int
    captured: float
    is_answered: bool = False

    def age_ms(self) -> float:
        """Return the milliseconds since its frame was captured."""
        return (time.perf_counter() - self.captured) * 1e3


@dataclass
class Answers:
    """Writes one answer per part and counts the answers for the summary."""

    timeout_ms: float
    times: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    unanswered: int = 0

    def judged(
        self,
        waiting: Waiting,
        verdict: str,
        score: float | None,
        faults: list[str],
        reason: str | None,
        inferred_ms: float,
    ) -> None:
        """Write a verdict, or that it is too late."""
        total = waiting.age_ms()
        if total > self.timeout_ms:
            self.undecided(waiting, "late")
            return
        waiting.is_answered = True
        self.times.append(total)
        self.counts[verdict] = self.counts.get(verdict, 0) + 1
        record = {"part": waiting.part, "verdict": verdict, "score": score, "frame_faults": faults, "reason": reason}
        print(json.dumps({**record, "ms": round(total, 3), "waited_ms": round(total - inferred_ms, 3)}), flush=True)

    def undecided(self, waiting: Waiting, why: str) -> None:
        waiting.is_answered = True
        self.unanswered += 1
        print(json.dumps({"part": waiting.part, "verdict": "undecided", "why": why}), flush=True)


class Line:
    """The line in one loop.

    It captures frames, hands them to the idle worker, and answers for late parts.
    """

    def __init__(self, arguments: argparse.Namespace, pictures: list[NDArray[np.uint8]]) -> None:
        self.arguments, self.pictures = arguments, pictures
        self.frames = arguments.frames or math.inf
        # The frames that wait, the one that is judged, and one for the camera to write to.
        self.shape = (arguments.queue + 2, *pictures[0].shape)
        self.memory = SharedMemory(create=True, size=int(np.prod(self.shape)))
        self.slots: NDArray[np.uint8] = np.ndarray(self.shape, np.uint8, self.memory.buf)
        self.slots[0] = pictures[0]
        self.queue: deque[Waiting] = deque()
        self.judging: Waiting | None = None
        self.answers = Answers(arguments.timeout_ms)
        self.restarts = self.failed_starts = 0
        self.has_started = False
        self.start_worker()

    def start_worker(self) -> None:
        self.pipe, theirs = PROCESSES.Pipe()
        asked = self.arguments
        given = (theirs, self.memory.name, self.shape, asked.bundle, asked.backend, asked.threads, asked.metrics_port)
        self.worker = PROCESSES.Process(target=infer, args=given, daemon=True)
        self.worker.start()
        theirs.close()
        self.is_ready, self.started = False, time.perf_counter()

    def run(self) -> int:
        period = 1 / self.arguments.fps
        while not self.is_ready:
            self.listen(0.1)
            if not self.worker.is_alive() or time.perf_counter() - self.started > START_SECONDS:
                print("the inference process did not start", file=sys.stderr)
                return 2
        next_capture, part = time.perf_counter(), 0
        while part < self.frames or self.queue or self.judging:
            if self.failed_starts == MOST_FAILED_STARTS:
                print("the inference process does not start again", file=sys.stderr)
                return 2
            now = time.perf_counter()
            if part < self.frames and now >= next_capture:
                self.capture(part)
                part, next_capture = part + 1, next_capture + period
            self.answer_late()
            self.hand_over()
            is_over = part == self.frames
            self.listen(POLL_SECONDS if is_over else min(POLL_SECONDS, max(0.0, next_capture - time.perf_counter())))
        return self.summary()

    def capture(self, part: int) -> None:
        if len(self.queue) == self.arguments.queue:
            dropped = self.queue.popleft()
            if not dropped.is_answered:
                self.answers.undecided(dropped, "dropped")
        used = {waiting.slot for waiting in (*self.queue, *([self.judging] if self.judging else []))}
        slot = next(free for free in range(len(self.slots)) if free not in used)
        self.slots[slot] = self.pictures[part % len(self.pictures)]  # the driver of a real camera writes here directly
        self.queue.append(Waiting(part, slot, time.perf_counter()))

    def hand_over(self) -> None:
        while self.queue and self.judging is None and self.is_ready:
            waiting = self.queue.popleft()
            if not waiting.is_answered:
                self.judging = waiting
                with contextlib.suppress(BrokenPipeError):  # it just died; listen() replaces it
                    self.pipe.send((waiting.part, waiting.slot))

    def answer_late(self) -> None:
        timeout_ms = self.arguments.timeout_ms
        for waiting in (*self.queue, *([self.judging] if self.judging else [])):
            if waiting.age_ms() > timeout_ms and not waiting.is_answered:
                self.answers.undecided(waiting, "late")
        # After ten timeouts the process is considered hung, and is replaced.
        if self.judging and self.judging.age_ms() > max(10 * timeout_ms, LEAST_HANG_MS):
            self.worker.kill()
        # A replacement that hangs while it loads would let every part be late for ever.
        if not self.is_ready and time.perf_counter() - self.started > START_SECONDS:
            self.worker.kill()

    def listen(self, seconds: float) -> None:
        for ready in wait([self.pipe, self.worker.sentinel], seconds):
            if ready is not self.pipe:
                continue
            try:
                answer = self.pipe.recv()
            except (EOFError, ConnectionResetError):
                continue
            if answer == READY:
                self.is_ready = self.has_started = True
                self.failed_starts = 0
            elif self.judging is not None:
                if not self.judging.is_answered:
                    if isinstance(answer, str):
                        self.answers.undecided(self.judging, answer)
                    else:
                        self.answers.judged(self.judging, *answer)
                self.judging = None
        if not self.worker.is_alive() and self.has_started:
            if self.judging and not self.judging.is_answered:
                self.answers.undecided(self.judging, "the inference process died")
            self.failed_starts += not self.is_ready
            self.judging, self.restarts = None, self.restarts + 1
            self.start_worker()

    def summary(self) -> int:
        times = sorted(self.answers.times) or [0.0]
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.answers.counts.items()))
        print(
            f"{len(self.answers.times)} judged: {counts or 'none'}; {self.answers.unanswered} unanswered in time; "
            f"{self.restarts} restarts; capture to verdict p50 {statistics.median(times):.2f} ms, "
            f"p99 {times[int(0.99 * (len(times) - 1))]:.2f} ms, max {times[-1]:.2f} ms",
            file=sys.stderr,
        )
        return 1 if self.answers.unanswered else 0

    def close(self) -> None:
        if self.worker.is_alive():
            with contextlib.suppress(BrokenPipeError):
                self.pipe.send(None)
            self.worker.join(5)
            self.worker.kill()
        del self.slots
        self.memory.close()
        self.memory.unlink()


def read_pictures(bundle: str, folder: str) -> list[NDArray[np.uint8]]:
    """Read the images of the simulated camera."""
    spec = kdx.open_bundle(bundle).manifest.camera  # `input` is a tile where large frames are divided
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
    pictures = [kdx.read_image(path, spec) for path in paths]
    if not pictures:
        raise SystemExit(f"there are no images in '{folder}'")
    return pictures


def main() -> int:
    """Run the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("folder", metavar="FRAMES")
    parser.add_argument("--fps", type=float, default=20.0)
    parser.add_argument("--frames", type=int, default=100, help="stop after as many frames; 0: never")
    parser.add_argument("--queue", type=int, default=4)
    parser.add_argument("--timeout-ms", type=float, default=200.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--metrics-port", type=int, default=0, help="serve Prometheus metrics of judged parts there")
    arguments = parser.parse_args()
    # The condition is negated so that NaN is an error too: with NaN no verdict would be late.
    if not (arguments.fps > 0 and arguments.timeout_ms > 0 and arguments.queue > 0 and arguments.frames >= 0):
        parser.error("--fps, --timeout-ms and --queue must be above 0, --frames must be at least 0")
    try:
        pictures = read_pictures(arguments.bundle, arguments.folder)
    except kdx.KdxError as error:
        print(error, file=sys.stderr)
        return 2
    line = Line(arguments, pictures)
    try:
        return line.run()
    except KeyboardInterrupt:
        line.summary()
        return 130
    finally:
        line.close()


if __name__ == "__main__":
    raise SystemExit(main())
