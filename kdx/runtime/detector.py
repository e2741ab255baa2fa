"""A detector: frames in, verdicts out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdx.decision.answers import AnswerLimits
from kdx.decision.level_map import Behind
from kdx.decision.verdict import Decision as Decision
from kdx.decision.verdict import Verdict, decide, reason_for
from kdx.errors import InputError
from kdx.imaging.frame_faults import FrameLimits, faults_of
from kdx.imaging.images import InputSpec
from kdx.runtime.backend import Backend, ClosesOnExit, Outputs
from kdx.runtime.tensorrt.cuda.arrays import DeviceArray, device_array

if TYPE_CHECKING:
    from kdx.decision.level_map import Level
    from kdx.decision.regions import Region
    from kdx.decision.roi import Roi, RoiFrame
    from kdx.monitoring.prometheus import Metrics
    from kdx.monitoring.verdict_log import VerdictLog


class Detector(ClosesOnExit):
    """A loaded bundle (or run folder). A context manager; as thread-safe as its backend, which all present ones are.

    A backend that declares ``accepts_device_arrays`` also takes images that lie on the GPU: whatever has
    ``__cuda_array_interface__`` or ``__dlpack__``, an image or a batch in one array.

    Attributes:
        backend: What runs the graph.
        input: What it accepts.
        threshold: The calibrated score, or None.
        max_batch: Images that go through the graph at once; longer batches are split.
        field_of_view: Share of each side of the image, centred, that the networks see and the map covers; below 1 for
            methods that crop.
        pixel_threshold: The calibrated map value, or None.
        frame_limits: What good images look like. Frames on the GPU are not looked at, and their verdicts say so.
        precision: In which the graph runs.
        review_threshold: The calibrated beginning of the review band, or None.
        log: Where verdicts are written, or None. Closed with the detector.
        metrics: What counts verdicts, or None.
        roi: The bundle's region of interest, or None; outside it nothing counts.
        roi_frame: What makes regions of interest for single calls; None where there are none (run folders).
        level: The bundle's level map, by which anomaly maps are divided, or None.
        answer_limits: What holds of every answer that the method can give.
    """

    def __init__(
        self,
        backend: Backend,
        input_spec: InputSpec,
        threshold: float | None,
        max_batch: int,
        field_of_view: float = 1.0,
        pixel_threshold: float | None = None,
        frame_limits: FrameLimits | None = None,
        precision: str = "fp32",
        review_threshold: float | None = None,
        roi: Roi | None = None,
        roi_frame: RoiFrame | None = None,
        level: Level | None = None,
        answer_limits: AnswerLimits | None = None,
    ) -> None:
        self.backend = backend
        self.input = input_spec
        self.threshold = threshold
        # An engine may have been built for smaller batches than its bundle's graph.
        self.max_batch = min(max_batch, getattr(backend, "max_batch", max_batch))
        self.field_of_view = field_of_view
        self.pixel_threshold = pixel_threshold
        self.frame_limits = frame_limits or FrameLimits()
        self.precision = precision
        self.review_threshold = review_threshold
        self.log: VerdictLog | None = None
        self.metrics: Metrics | None = None
        self.roi = roi
        self.roi_frame = roi_frame
        self.level = level
        self.answer_limits = answer_limits or AnswerLimits()

    def __call__(self, image: NDArray[np.uint8], *, roi: Roi | NDArray[np.uint8] | None = None) -> Verdict:
        """Judge one image.

        Args:
            image: uint8 ``(H, W, C)``, or ``(H, W)`` for a mono detector; exactly the size of :attr:`input`.
            roi: A region of interest for this call: uint8 ``(H, W)``, 255 for pixels that count and 0 for others, or
                what :meth:`region_of_interest` made of it, which takes no time again. None takes the bundle's. In
                another than the bundle's, the threshold does not hold: there is a score, and the decision is undecided.

        Raises:
            InputError: Another type, size or channel count; a region that cannot be.
            BackendError: The runtime failed; the next call may succeed.
        """
        started = time.perf_counter()
        asked = self.region_of_interest(roi) if isinstance(roi, np.ndarray) else roi
        batch: Any = self._on_device(image)
        frame = None
        if batch is None:
            batch = np.ascontiguousarray(self.input.check(image)[None])
            frame = batch[0]
        outputs = self.backend.run(batch)
        verdict = self.verdict(outputs.maps[0], outputs.scores[0], frame, asked)
        self._keep([verdict], time.perf_counter() - started)
        return verdict

    def batch(self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> list[Verdict]:
        """Judge several images: an array ``(N, H, W, C)`` or a sequence of single images.

        All of them or none: where a part of them fails, no verdict is returned, logged or counted.
        """
        found: list[tuple[list[Verdict], float]] = []
        started = time.perf_counter()
        for part in self._parts(images):
            outputs = self.backend.run(part)
            frames = part if isinstance(part, np.ndarray) else [None] * len(outputs.maps)
            answers = zip(outputs.maps, outputs.scores, frames, strict=True)
            verdicts = [self.verdict(anomaly_map, score, frame) for anomaly_map, score, frame in answers]
            ended = time.perf_counter()
            found.append((verdicts, ended - started))
            started = ended
        for verdicts, seconds in found:
            self._keep(verdicts, seconds)
        return [verdict for verdicts, _ in found for verdict in verdicts]

    def outputs(self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> Outputs:
        """Return the maps ``(N, h, w)`` and scores ``(N, 1)`` of several images, as verdicts have them."""
        parts = [self.checked(self.backend.run(part)) for part in self._parts(images)]
        if not parts:
            return Outputs(np.empty((0, 0, 0), np.float32), np.empty((0, 1), np.float32))
        behind = Behind(self.level, self.roi)
        parts = [Outputs(*behind.apply(part.maps, part.scores)) for part in parts]
        if len(parts) == 1:
            return parts[0]
        return Outputs(np.concatenate([p.maps for p in parts]), np.concatenate([p.scores for p in parts]))

    def checked(self, raw: Outputs) -> Outputs:
        """Return what a backend gave, with scores of NaN where map or score is not one that the method can give."""
        return Outputs(raw.maps, self.answer_limits.mark(raw.maps, raw.scores))

    def region_of_interest(self, mask: NDArray[np.uint8]) -> Roi:
        """Return a region of interest for calls: uint8 ``(H, W)``, 255 for pixels that count and 0 for others.

        Raises:
            InputError: It does not fit the camera's image, has other values, or excludes nothing or everything; or the
                method takes none.
        """
        if self.roi_frame is None:
            raise InputError("a run takes no region of interest", fix="export it: kdx export RUN -o NAME.kdx")
        return self.roi_frame.roi(mask)

    def _parts(self, images: Any) -> Iterator[Any]:
        """Yield several images in batches that go through the graph at once."""
        on_device = self._on_device(images, single=False)
        if on_device is not None:
            for start in range(0, on_device.shape[0], self.max_batch):
                yield on_device.part(start, start + self.max_batch)
            return
        batch = self.input.check_batch(images)
        for start in range(0, len(batch), self.max_batch):
            yield np.ascontiguousarray(batch[start : start + self.max_batch])

    def _on_device(self, images: object, *, single: bool = True) -> DeviceArray | None:
        """Return an image or a batch that lies on the GPU as a batch, where the backend takes such; else None."""
        array = device_array(images) if getattr(self.backend, "accepts_device_arrays", False) else None
        if array is None:
            return None
        count, shape = (1, array.shape) if single else (array.shape[0], array.shape[1:])
        return array.reshape(count, *self.input.check_layout("uint8", shape))

    def verdict(
        self,
        anomaly_map: NDArray[np.float32],
        score: NDArray[np.float32],
        image: NDArray[np.uint8] | None = None,
        roi: Roi | None = None,
    ) -> Verdict:
        """Return the verdict on what a backend gave for one image: a map ``(h, w)`` and a score ``(1,)``.

        Args:
            anomaly_map: Of the image.
            score: Of the image.
            image: uint8 ``(H, W, C)``, to be looked at; None where it lies on the GPU.
            roi: The region of interest; None takes the bundle's.
        """
        fault = self.answer_limits.fault_of(anomaly_map, float(score[0]))
        is_calibrated = roi is None or roi.is_same(self.roi)
        anomaly_map, score = Behind(self.level, roi or self.roi).apply(anomaly_map, score)
        value = float("nan") if fault else float(score[0])
        faults = () if image is None else faults_of(image, self.frame_limits)
        threshold, pixel, review = (
            (self.threshold, self.pixel_threshold, self.review_threshold) if is_calibrated else (None, None, None)
        )
        decision = decide(value, threshold, faults, review)
        return Verdict(
            decision,
            value,
            threshold,
            anomaly_map,
            pixel,
            faults,
            review,
            reason_for(decision, value, threshold, fault, other_region=not is_calibrated),
            frame_checked=image is not None,
        )

    def regions(self, verdict: Verdict, *, min_area: float = 0.0, pixel_size_um: float | None = None) -> list[Region]:
        """Return where a verdict's map exceeds the pixel threshold; see :func:`kdx.decision.regions.find_regions`.

        Raises:
            InputError: The bundle has no pixel threshold: it is not calibrated; or the answer is not one the method
                can give.
            OptionError: An area or a pixel's size that cannot be.
        """
        from kdx.decision.regions import find_regions

        if verdict.reason is not None and verdict.reason.is_of_answer:
            raise InputError(
                f"an image whose answer is none has no regions: {verdict.reason.value}",
                expected="a verdict on an answer that the method can give",
                fix="run kdx verify: the runtime, its driver or the graph is at fault",
            )
        if verdict.pixel_threshold is None:
            raise InputError(
                "without a pixel threshold there are no regions", fix="calibrate: kdx calibrate BUNDLE DATA"
            )
        return find_regions(
            verdict.anomaly_map,
            verdict.pixel_threshold,
            (self.input.height, self.input.width),
            field_of_view=self.field_of_view,
            min_area=min_area,
            pixel_size_um=pixel_size_um,
        )

    def _keep(self, verdicts: Sequence[Verdict], seconds: float) -> None:
        """Log and count verdicts that took so long together."""
        for each in (self.log, self.metrics):
            if each is not None:
                for verdict in verdicts:
                    each.add(verdict, seconds * 1e3 / len(verdicts))

    def close(self) -> None:
        """Free the backend, and write what the log still holds."""
        self.backend.close()
        if self.log is not None:
            self.log.close()
