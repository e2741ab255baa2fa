"""One bundle that is served: its detector, the thread that runs it, and the places of requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from http import HTTPStatus
from typing import Protocol

import msgspec
import numpy as np

from kdx.decision.map_files import MapPlace
from kdx.decision.verdict import Verdict
from kdx.errors import BackendError, ImageError, InputError, KdxError, OptionError
from kdx.monitoring.judged_by import JudgedBy
from kdx.runtime.detector import Detector
from kdx.station.camera.frames import FrameInfo
from kdx.station.record import NotJudged, Shown, VerdictRecord, judged, not_judged
from kdx.station.serve.answers import Asked, BundleInfo, VerdictAnswer, answer_of
from kdx.station.serve.fault_log import log_fault
from kdx.station.serve.figures import BundleFigures
from kdx.station.serve.live import Seen
from kdx.station.serve.options import verdicts_path
from kdx.station.serve.places import Places
from kdx.station.serve.problems import RefusedError, refused
from kdx.station.serve.sent_image import frame_of
from kdx.storage.files import sha256_bytes


class Observer(Protocol):
    """Receives the verdicts of a judge. Its methods return at once, and raise nothing."""

    def add(self, seen: Seen) -> None:
        """Take a verdict."""
        ...

    def refuse(self, seen: Seen) -> None:
        """Take an image that could not be used; its record says ``unreadable``."""
        ...


def tell(observers: Iterable[Observer], take: Callable[[Observer], None]) -> None:
    """Let observers take what was seen; one with a defect changes no answer."""
    for observer in observers:
        try:
            take(observer)
        except Exception:  # the others get it all the same
            log_fault()


class Keeper(Protocol):
    """Keeps verdicts before they are answered. A method raises a ``BackendError`` if it cannot."""

    def keep(self, record: VerdictRecord, since: float) -> None:
        """Keep a verdict on an image that came at some time."""
        ...

    def check(self) -> None:
        """Try whether verdicts can be kept."""
        ...


class Job:
    """An image that waits for its verdict.

    Args:
        data: The body of the request.
        asked: What the request asks for.
        came: When the request came, before its body or its frame, by ``time.monotonic()``.
        frame: What is known of a camera's frame; None for an image that was sent.
    """

    def __init__(self, data: bytes, asked: Asked, came: float, frame: FrameInfo | None = None) -> None:
        self.data, self.asked, self.came, self.frame = data, asked, came, frame

    @cached_property
    def shown(self) -> Shown:
        """The image in records. Its hash is computed by the judge's thread, not by the server's."""
        asked, frame = self.asked, self.frame
        shown = Shown(
            image=asked.image,
            image_sha256=sha256_bytes(self.data) if self.data else None,
            part_id=asked.part_id,
            product=asked.product or None,
        )
        if frame is None:
            return shown
        return msgspec.structs.replace(shown, camera=frame.camera, frame=frame.frame, frame_time=frame.time)

    def forget(self) -> None:
        """Free the memory of an image that nobody waits for any more."""
        self.data = b""


class Judge:
    """Judges the images that are sent for one bundle, one after the other, in a thread of its own.

    Decoding is done in that thread too, so that one decoded image a bundle is in memory.

    Args:
        name: The bundle's name in URLs.
        detector: The detector. Its metrics become those of the judge.
        by: What the records say of the detector.
        figures: The figures of the bundle.
        observers: They receive every verdict, and count images that have none.
        places: How many requests may be received, wait or be judged at once.
        keeper: It keeps every verdict before it is answered, or None.

    Attributes:
        progress: Grows whenever the thread has done something.
    """

    def __init__(
        self,
        name: str,
        detector: Detector,
        by: JudgedBy,
        figures: BundleFigures,
        observers: Sequence[Observer],
        places: int,
        keeper: Keeper | None = None,
    ) -> None:
        self.name, self.detector, self.by, self.figures = name, detector, by, figures
        self.places = Places(name, places, figures)
        self._observers, self._keeper = observers, keeper
        # Counted here, once a verdict stands: one that cannot be kept is answered as undecided.
        self._metrics, detector.metrics = detector.metrics, None
        self.is_working = True
        self._trial: Future[None] | None = None
        self._ping: Future[None] | None = None
        self.progress = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kdx serve {name}")

    @property
    def info(self) -> BundleInfo:
        """The description of the bundle for clients."""
        detector = self.detector
        return BundleInfo(
            name=self.name,
            verdicts=verdicts_path(self.name),
            input=detector.input,
            loaded=self.by,
            threshold=detector.threshold,
            review_threshold=detector.review_threshold,
            pixel_threshold=detector.pixel_threshold,
            queue=self.places.count,
        )

    def submit(self, job: Job) -> Future[VerdictAnswer]:
        """Put a job into the queue; cancelling the future before its turn takes the job out."""
        return self._thread.submit(self._judge, job)

    def miss(self, job: Job, error: KdxError) -> Future[RefusedError]:
        """Put a trigger without a frame that fits into the queue: the part is undecided.

        So parts keep their order, and the thread of the judge waits for the disk, not the server.
        """
        return self._thread.submit(self._miss, job, error)

    def try_again(self) -> None:
        """Find out whether the backend works again after a failure: it runs an empty frame."""
        if not self.is_working and (self._trial is None or self._trial.done()):
            self._trial = self._thread.submit(self._try)

    def ping(self) -> None:
        """Let the thread make progress when it has nothing else to do."""
        if self._ping is None or self._ping.done():
            self._ping = self._thread.submit(self._proceed)

    def close(self) -> None:
        """Judge what waits, and end the thread."""
        self._thread.shutdown()
        if self._metrics is not None:
            self._metrics.close()

    def _judge(self, job: Job) -> VerdictAnswer:
        """Judge an image.

        Raises:
            RefusedError: The image cannot be used; the request describes it wrongly, and there is
                no record; or the backend failed, and it is undecided.
        """
        started = time.perf_counter()
        asked, detector = job.asked, self.detector
        try:
            frame = frame_of(job.data, asked.layout, detector.input)
            began = time.perf_counter()
            verdict = detector(frame.pixels)
            ended = time.perf_counter()
            record = judged(job.shown, verdict, self.by)
            height, width = frame.size
            answer = answer_of(record, verdict, MapPlace(width, height, detector.view), asked, frame.warnings)
            if self._keeper is not None:  # last: after another error, the part is undecided
                self._keeper.keep(record, job.came)
            self.is_working = True
        except KdxError as error:
            if not isinstance(error, (ImageError, InputError, OptionError)):
                raise self._failed(job, error) from error
            if job.frame is not None:  # nobody can send it again, as an image that does not fit
                job.frame = msgspec.structs.replace(job.frame, reason=NotJudged.INCOMPLETE_FRAME)
                raise self._miss(job, error) from error
            if isinstance(error, OptionError):  # the request is wrong: it says nothing about the part
                raise refused(error) from error
            self.figures.refused.inc()
            record = not_judged(job.shown, error, self.by)
            seen = self._seen(job, record)
            tell(self._observers, lambda observer: observer.refuse(seen))
            raise refused(error, record) from error
        except Exception as error:
            log_fault()
            text = f"{type(error).__name__}: {error}"
            raise self._failed(job, BackendError(text, fix="see the log of kdx serve")) from error
        finally:
            self._proceed()
            self.places.add_time(time.perf_counter() - started)
        # The verdict is kept, and stands whatever happens here.
        if self._metrics is not None:
            self._metrics.add(verdict, 1e3 * (ended - began))
        self._tell(self._seen(job, record, verdict, 1e3 * (time.monotonic() - job.came)))
        return answer

    def _miss(self, job: Job, error: KdxError) -> RefusedError:
        self.figures.missed.inc()
        assert job.frame is not None
        record = not_judged(job.shown, error, self.by, job.frame.reason)
        self._keep_undecided(record, job.came)
        self._tell(self._seen(job, record))
        return RefusedError(HTTPStatus.BAD_GATEWAY, error, record=record)

    def _tell(self, seen: Seen) -> None:
        tell(self._observers, lambda observer: observer.add(seen))

    def _seen(
        self, job: Job, record: VerdictRecord, verdict: Verdict | None = None, milliseconds: float | None = None
    ) -> Seen:
        return Seen(self.name, record, job.data, job.asked, verdict, milliseconds)

    def _failed(self, job: Job, error: KdxError) -> RefusedError:
        """Return the answer for an image on which the backend failed: it is undecided."""
        self.is_working = False
        self.figures.failed.inc()
        record = not_judged(job.shown, error, self.by)
        self._keep_undecided(record, job.came)
        self._tell(self._seen(job, record))
        return RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, error, record=record)

    def _keep_undecided(self, record: VerdictRecord, since: float) -> None:
        """Keep the record of a part without a verdict; that it cannot be kept is a failure too."""
        if self._keeper is not None:
            try:
                self._keeper.keep(record, since)
            except BackendError:
                self.is_working = False

    def _try(self) -> None:
        spec = self.detector.input
        self.detector.backend.run(np.zeros((1, spec.height, spec.width, spec.channels), np.uint8))
        if self._keeper is not None:
            self._keeper.check()
        self.is_working = True

    def _proceed(self) -> None:
        self.progress += 1
