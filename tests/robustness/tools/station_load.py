"""``kdx serve`` under load: clients that ask at once, with wrong requests among theirs."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import kdx
from tests.robustness.tools.station_line import Line, Station, free_port

_WRONG_EVERY, _CALLS, _ROUNDS = 10, 200, 10


def load_server(line: Line, requests: int, clients: int) -> dict[str, Any]:
    """Return how many answers differ from the detector's own, memory, and times over its call."""
    bodies = [image.read_bytes() for image in line.images[:8]]
    with kdx.load(line.bundle, "onnxruntime-cpu", 1, precision="fp32") as detector:
        frames = [kdx.read_image(image, detector.input) for image in line.images[:8]]
        own = [(verdict.decision.value, verdict.score) for verdict in map(detector, frames)]
        bare = [-time.perf_counter() + (detector(frame), time.perf_counter())[1] for frame in frames * _CALLS]
    wrong = (b"", b"nothing that is an image", bodies[0][: len(bodies[0]) // 2])
    station = Station("serve", line.bundle, "--queue", clients + 1, port=free_port())

    def ask(number: int, count: int) -> tuple[list[float], int, int]:
        connection, times, differing, refused = station.connect(), [], 0, 0
        for turn in range(number, number + count):
            is_wrong, index = turn % _WRONG_EVERY == 0, turn % len(bodies)
            body, started = wrong[turn % 3] if is_wrong else bodies[index], time.perf_counter()
            connection.request("POST", "/v1/verdicts", body, {"Content-Type": "image/png"})
            response = connection.getresponse()
            found = json.loads(response.read())
            if is_wrong:
                refused += response.status == 422 and "verdict" not in found
            else:
                times.append(time.perf_counter() - started)
                differing += response.status != 200 or (found["verdict"], found["score"]) != own[index]
        return times, differing, refused

    def memory_mb() -> float:
        connection = station.connect()
        connection.request("GET", "/metrics")
        texts = connection.getresponse().read().decode().splitlines()
        return next(float(text.split()[1]) for text in texts if text.startswith("process_resident_memory")) / 1e6

    alone = ask(1, requests // 20)
    rounds: list[tuple[list[float], int, int]] = []
    memory: list[float] = []
    with ThreadPoolExecutor(clients) as pool:
        for _ in range(_ROUNDS):
            rounds += pool.map(ask, range(clients), [requests // clients // _ROUNDS] * clients)
            memory.append(round(memory_mb(), 1))
    taken = {"1": alone[0], str(clients): [seconds for times, *_ in rounds for seconds in times]}
    call = float(np.median(bare))
    return {
        "answers": sum(map(len, taken.values())),
        "differing": sum(differing for _, differing, _ in (alone, *rounds)),
        "wrong_refused": sum(refused for *_, refused in (alone, *rounds)),
        "memory_mb": memory,
        "call_ms": round(1e3 * call, 3),
        "times_the_call": {
            n: [round(float(np.percentile(t, q)) / call, 2) for q in (50, 99)] for n, t in taken.items()
        },
        "exit_status": station.end(),
    }
