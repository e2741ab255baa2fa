"""One detector for very many frames: memory, handles and threads over time, and every score.

Now and then something goes wrong, as it does on a line: a frame of another size or type, a detector
that was closed, a bundle that is loaded again. Run as a script with a JSON file of :class:`Soak`'s
fields; prints what was found.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kdx
from benchmarks.timing.memory import memory_mb
from kdx.errors import BackendError, InputError
from kdx.runtime.detector import Detector

_SAMPLES, _LOADS = 200, 100
_WARM_UP_SHARE = 0.1
# From one load of a bundle to the next the same runtime holds up to 10 MB more or less; what is
# judged are medians over many loads. A kilobyte lost per frame would be 200 MB.
LEAK_MB = 8.0


@dataclass(frozen=True)
class Soak:
    """What is run.

    Attributes:
        bundle: The bundle.
        images: A ``.npy`` file, uint8 ``(K, H, W, C)``.
        backend: What runs it.
        precision: Of its graphs.
        threads: Threads within an operation.
        frames: How many.
        reload_every: After how many frames the detector is closed and loaded again; 0 for a hundred
            times in all.
        fault_every: After how many frames one comes that cannot be judged.
    """

    bundle: str
    images: str
    backend: str
    precision: str
    threads: int
    frames: int
    reload_every: int = 0
    fault_every: int = 1_000


@dataclass(frozen=True)
class Sample:
    """What this process holds at one moment.

    Attributes:
        frame: After how many frames.
        seconds: After what time.
        rss_mb: Resident memory.
        pss_mb: The same with shared pages counted in parts.
        handles: Open files, sockets and pipes.
        threads: Threads.
    """

    frame: int
    seconds: float
    rss_mb: float
    pss_mb: float
    handles: int
    threads: int


@dataclass
class Soaked:
    """What came of it.

    Attributes:
        backend: What ran.
        precision: Of its graph.
        frames: Frames judged.
        hours: How long that took.
        reloads: How often the bundle was closed and loaded again.
        refused: Frames that could not be judged, were given all the same, and refused.
        differing: Verdicts that were not those of the first time the same image was seen, to the
            bit.
        crashes: Frames that raised what they should not.
        growth_mb: By how much PSS grew from the second tenth of the time to the last, as medians.
        slope_mb: What a straight line through PSS after the first tenth gives for 100,000 frames.
        handles_grown: Open handles at the end more than after the first tenth.
        threads_grown: Threads at the end more than after the first tenth.
        leaks: How many of the three have grown.
        samples: A few of the moments.
        errors: Of the crashes, the first ones, in words.
    """

    backend: str
    precision: str
    frames: int = 0
    hours: float = 0.0
    reloads: int = 0
    refused: int = 0
    differing: int = 0
    crashes: int = 0
    growth_mb: float = 0.0
    slope_mb: float = 0.0
    handles_grown: int = 0
    threads_grown: int = 0
    leaks: int = 0
    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def soak(job: Soak) -> Soaked:
    """Judge frame after frame, and watch what this process holds."""
    images = np.load(job.images)
    found = Soaked(job.backend, job.precision)
    reference: dict[int, tuple[float, bytes]] = {}
    detector = _load(job)
    started = time.perf_counter()
    every = max(job.frames // _SAMPLES, 1)
    reload_every = job.reload_every or max(job.frames // _LOADS, 1)
    for frame in range(job.frames):
        if frame and frame % reload_every == 0:
            detector = _reload(job, detector, images[0], found)
        if frame % job.fault_every == job.fault_every // 2:
            _give_wrong(detector, images[0], frame, found)
        which = frame % len(images)
        try:
            verdict = detector(images[which].copy())  # fresh memory, as a camera's driver hands it over
        except Exception as error:
            found.crashes += 1
            found.errors += [f"frame {frame}: {error!r}"] if len(found.errors) < 10 else []
            continue
        found.frames += 1
        answer = verdict.score, verdict.anomaly_map.tobytes()
        found.differing += reference.setdefault(which, answer) != answer
        if frame % every == 0 or frame == job.frames - 1:
            found.samples.append(sample(frame + 1, time.perf_counter() - started))
    found.hours = round((time.perf_counter() - started) / 3600, 4)
    detector.close()
    return judge_growth(found)


def judge_growth(found: Soaked) -> Soaked:
    """Say what has grown after the first tenth of the time, and keep a few of the samples."""
    settled = [each for each in found.samples if each.frame > _WARM_UP_SHARE * found.samples[-1].frame]
    tenth = max(len(settled) // 9, 1)
    first, last = settled[:tenth], settled[-tenth:]
    found.growth_mb = round(float(np.median([s.pss_mb for s in last]) - np.median([s.pss_mb for s in first])), 2)
    frames = np.array([each.frame for each in settled]) / 1e5
    if len(settled) > 1:
        found.slope_mb = round(float(np.polyfit(frames, [each.pss_mb for each in settled], 1)[0]), 3)
    found.handles_grown = max(each.handles for each in last) - max(each.handles for each in first)
    found.threads_grown = max(each.threads for each in last) - max(each.threads for each in first)
    found.leaks = (found.growth_mb > LEAK_MB) + (found.handles_grown > 0) + (found.threads_grown > 0)
    found.samples = found.samples[:: max(len(found.samples) // 20, 1)]
    return found


def sample(frame: int, seconds: float) -> Sample:
    """Return what this process holds now; Linux only.

    What was freed is first given back to the system: else the allocator's own stock, twice the
    rest, is what is seen.
    """
    gc.collect()
    _trim()
    held = memory_mb()
    return Sample(
        frame=frame,
        seconds=round(seconds, 1),
        rss_mb=round(held["rss"], 2),
        pss_mb=round(held["pss"], 2),
        handles=len(list(Path("/proc/self/fd").iterdir())),
        threads=len(list(Path("/proc/self/task").iterdir())),
    )


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _load(job: Soak) -> Detector:
    return kdx.load(job.bundle, backend=job.backend, threads=job.threads, precision=job.precision)


def _reload(job: Soak, detector: Detector, image: NDArray[np.uint8], found: Soaked) -> Detector:
    """Close a detector, hold it to being closed, and load the bundle again."""
    detector.close()
    try:
        detector(image)
        found.errors.append("a closed detector answered")
        found.crashes += 1
    except BackendError:
        found.refused += 1
    found.reloads += 1
    return _load(job)


def _give_wrong(detector: Detector, image: NDArray[np.uint8], frame: int, found: Soaked) -> None:
    """Give a frame that cannot be judged."""
    wrong: Sequence[Any] = (image[:-1], image.astype(np.float32), image[..., :0], None, np.empty((0, 0, 3), np.uint8))
    try:
        detector(wrong[frame // 1000 % len(wrong)])
        found.errors.append(f"frame {frame}: a frame that cannot be judged was judged")
        found.crashes += 1
    except InputError:
        found.refused += 1
    except Exception as error:
        found.errors.append(f"frame {frame}: {error!r}")
        found.crashes += 1


def main(arguments: Sequence[str]) -> None:
    """Carry out the soak of a file, and print what came of it."""
    job = Soak(**json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    print(json.dumps([asdict(soak(job))]))


if __name__ == "__main__":
    main(sys.argv[1:])
