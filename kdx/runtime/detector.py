"""A detector: frames in, verdicts out."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kdx.decision.answers import AnswerLimits
from kdx.decision.good_scores import GoodScores
from kdx.decision.level_map import Level
from kdx.decision.roi import Roi, RoiFrame
from kdx.decision.rule import DecisionRule
from kdx.decision.verdict import Verdict
from kdx.errors import InputError
from kdx.imaging.field_of_view import FieldOfView
from kdx.imaging.frame_faults import FrameLimits
from kdx.imaging.images import InputSpec
from kdx.runtime.backend import Backend, ClosesOnExit, Outputs, largest_batch
from kdx.runtime.device_arrays import DeviceArray, device_array
from kdx.runtime.loading_process import LoadingProcess
from kdx.runtime.rule_fields import FieldOfRule, RegionOfRule
from kdx.runtime.verdict_observer import JudgedFrame, VerdictObserver
from kdx.storage.stamps import stamp_of

if TYPE_CHECKING:
    from kdx.decision.regions import Region
    from kdx.runtime.banded import BandedVerdict


class DetectorOrigin(Protocol):
    """What a detector was loaded from. It can be pickled."""

    def restore(self, changed: Mapping[str, Any]) -> Detector:
        """Load the detector again, with the changed fields of its rule."""
        ...


class Detector(ClosesOnExit):
    """A loaded bundle (or run folder). A context manager.

    It is as thread-safe as its backend, which all backends of kdx are. It belongs to the process
    that loaded it: in a process that was forked later, calls raise ``BackendError``.

    The detector of a bundle can be pickled. Another process that unpickles it loads the bundle from
    the same path, and refuses a bundle that was changed.

    A backend that declares ``accepts_device_arrays`` also takes images that lie on the GPU:
    whatever has ``__cuda_array_interface__`` or ``__dlpack__``, an image or a batch in one array.

    Attributes:
        backend: The backend that runs the graph.
        input: The images that it accepts.
        rule: How the graph's answers become verdicts. Its fields are attributes of the detector
            too.
        max_batch: The number of images that go through the graph at once; longer batches are split.
        precision: The precision in which the graph runs.
        log: The log to which verdicts are written, or None. It is closed with the detector.
        metrics: What counts verdicts, or None. It is closed with the detector.
        origin: The bundle and the options that it was loaded with; None for a detector that was
            made otherwise, which cannot be pickled.
        threshold: The calibrated score above which an image is defective, or None.
        review_threshold: The calibrated score above which somebody should look, or None.
        pixel_threshold: The calibrated map value that hardly any good image reaches, or None.
        threshold_by_hand: Why a person set the threshold (``kdx calibrate --threshold``), in their
            words; None for a threshold that was chosen from scores, and for other thresholds than
            those of the bundle.
        good_scores: The scores of the good images of the calibration, for p-values, or None. They
            are of the bundle's level map and region of interest: None for others.
        level: The bundle's level map, by which anomaly maps are divided, or None. Thresholds are of
            the level map and the region of interest of their calibration: assigning others removes
            those of the bundle, so that verdicts are undecided until others are assigned.
        roi: The bundle's region of interest, outside of which nothing counts, or None. Assigning
            another one, or a mask, removes the thresholds, as for ``level``.
        roi_frame: What regions of interest for single calls must fit; None where none are accepted
            (run folders).
        field_of_view: Share of each side of the image, or of its window ``input.crop``, centred,
            that the networks see and the map covers; below 1 for methods that crop.
        frame_limits: What frames that show a part look like. Frames on the GPU are not checked, and
            their verdicts say so.
        answer_limits: What holds of every answer that the method can give.
    """

    threshold = FieldOfRule[float | None]()
    review_threshold = FieldOfRule[float | None]()
    pixel_threshold = FieldOfRule[float | None]()
    threshold_by_hand = FieldOfRule[str | None]()
    good_scores = FieldOfRule[GoodScores | None]()
    level = FieldOfRule[Level | None]()
    roi = RegionOfRule()
    roi_frame = FieldOfRule[RoiFrame | None]()
    field_of_view = FieldOfRule[float]()
    frame_limits = FieldOfRule[FrameLimits]()
    answer_limits = FieldOfRule[AnswerLimits]()

    def __init__(
        self,
        backend: Backend,
        input_spec: InputSpec,
        rule: DecisionRule,
        *,
        max_batch: int,
        precision: str = "fp32",
        log: VerdictObserver | None = None,
        metrics: VerdictObserver | None = None,
    ) -> None:
        self.backend = backend
        self.input = input_spec
        self._rule_lock = threading.Lock()
        self.rule = rule
        # An engine may have been built for smaller batches than its bundle's graph.
        self.max_batch = largest_batch(backend, max_batch)
        self.precision = precision
        self.log = log
        self.metrics = metrics
        self.origin: DetectorOrigin | None = None
        self._rule_as_loaded = rule
        self._process = LoadingProcess()

    def __reduce__(self) -> tuple[Callable[..., Detector], tuple[Any, ...]]:
        origin, changed = self.pickled()
        return origin.restore, (changed,)

    def pickled(self) -> tuple[DetectorOrigin, dict[str, Any]]:
        """Return what is pickled: the origin, and the fields of the rule that were assigned later.

        Raises:
            InputError: The detector was not loaded from a bundle, or has metrics.
        """
        if self.origin is None:
            raise InputError(
                "this detector cannot be pickled: it was not loaded from a bundle",
                expected="a detector of kdx.load(BUNDLE) or kdx.load_many(BUNDLES)",
                fix="export the run (kdx export RUN -o NAME.kdx) and load the bundle, or load it in each process",
            )
        if self.metrics is not None:
            raise InputError(
                "a detector with `metrics` cannot be pickled: its registry belongs to this process",
                fix="load the bundle in each process, with metrics of its own",
            )
        before, now = self._rule_as_loaded, self.rule
        values = {field.name: getattr(now, field.name) for field in fields(DecisionRule)}
        return self.origin, {name: value for name, value in values.items() if value is not getattr(before, name)}

    def __call__(
        self,
        image: NDArray[np.uint8],
        *,
        roi: Roi | NDArray[np.uint8] | None = None,
        part_id: str | None = None,
    ) -> Verdict:
        """Judge one image.

        Args:
            image: uint8 ``(H, W, C)``, or ``(H, W)`` for a mono detector; exactly the size of
                :attr:`input`.
            roi: A region of interest for this call: uint8 ``(H, W)``, 255 for pixels that count and
                0 for others, or the result of :meth:`region_of_interest`, which saves the time of
                checking the mask at each call. None takes the bundle's. The threshold does not
                apply in a different region: the verdict has a score, and its decision is undecided.
            part_id: The part that the image shows, for the log.

        Raises:
            InputError: Another type, size or channel count; an invalid region; or a part for a
                detector without a log.
            BackendError: The runtime failed, and the next call may succeed; or the process was
                forked after the detector was loaded.
        """
        self._process.require_current()
        self._require_log(part_id)
        started = time.perf_counter()
        region = None if roi is None else self.region_of_interest(roi)
        batch: Any = self._on_device(image)
        frame = None
        if batch is None:
            batch = np.ascontiguousarray(self.input.check(image)[None])
            frame = batch[0]
        outputs = self.backend.run(batch)
        verdict = self.verdict(outputs.maps[0], outputs.scores[0], frame, region)
        self._notify([verdict], time.perf_counter() - started, [JudgedFrame(part_id, frame)])
        return verdict

    def judge_file(
        self,
        path: str | Path,
        *,
        min_area: float = 0.0,
        pixel_size_um: float | None = None,
        part_id: str | None = None,
    ) -> BandedVerdict:
        """Judge a frame in a TIFF file that is too large for the memory.

        See :func:`kdx.runtime.banded.judge_in_bands`; ``part_id`` is the part that it shows, for
        the log.
        """
        from kdx.runtime.banded import judge_in_bands

        self._process.require_current()
        self._require_log(part_id)
        started, path = time.perf_counter(), Path(path)
        stamp = stamp_of(path)
        judged = judge_in_bands(self, path, min_area=min_area, pixel_size_um=pixel_size_um)
        shown = JudgedFrame(part_id, path=path, stamp=stamp)
        self._notify([judged.verdict], time.perf_counter() - started, [shown])
        return judged

    def batch(
        self,
        images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]],
        *,
        part_ids: Sequence[str | None] | None = None,
    ) -> list[Verdict]:
        """Judge several images, at most :attr:`max_batch` of them at once.

        If an image or a part of the batch fails, no verdict is returned, logged or counted.

        Args:
            images: uint8 ``(N, H, W, C)``, or a sequence of single images.
            part_ids: The part that each image shows, for the log.

        Returns:
            The verdicts, in the order of the images.

        Raises:
            InputError: An image has another type, size or channel count; there are more or fewer
                parts than images; or parts for a detector without a log.
            BackendError: The runtime failed; the next call may succeed.
        """
        for part_id in part_ids or ():
            self._require_log(part_id)
        judged: list[tuple[list[Verdict], float, list[NDArray[np.uint8] | None]]] = []
        started = time.perf_counter()
        for part in self._parts(images):
            outputs = self.backend.run(part)
            frames = list(part) if isinstance(part, np.ndarray) else [None] * len(outputs.maps)
            answers = zip(outputs.maps, outputs.scores, frames, strict=True)
            verdicts = [self.verdict(anomaly_map, score, frame) for anomaly_map, score, frame in answers]
            ended = time.perf_counter()
            judged.append((verdicts, ended - started, frames))
            started = ended
        count = sum(len(verdicts) for verdicts, *_ in judged)
        if part_ids is not None and len(part_ids) != count:
            raise InputError("each image shows one part", expected=f"{count} `part_ids`", received=str(len(part_ids)))
        parts = iter(part_ids or itertools.repeat(None))
        for verdicts, seconds, frames in judged:
            self._notify(verdicts, seconds, [JudgedFrame(next(parts), frame) for frame in frames])
        return [verdict for verdicts, *_ in judged for verdict in verdicts]

    def outputs(self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> Outputs:
        """Return maps ``(N, h, w)`` and scores ``(N, 1)`` of images, as verdicts have them.

        Args:
            images: As for :meth:`batch`.

        Raises:
            InputError: An image has another type, size or channel count.
            BackendError: The runtime failed; the next call may succeed.
        """
        parts = [self.checked(self.backend.run(part)) for part in self._parts(images)]
        if not parts:
            return Outputs(np.empty((0, 0, 0), np.float32), np.empty((0, 1), np.float32))
        process = self.rule.post_processing.apply
        parts = [Outputs(*process(part.maps, part.scores)) for part in parts]
        if len(parts) == 1:
            return parts[0]
        return Outputs(np.concatenate([p.maps for p in parts]), np.concatenate([p.scores for p in parts]))

    def checked(self, raw: Outputs) -> Outputs:
        """Return a backend's outputs, with NaN scores for answers that the method cannot give."""
        return Outputs(raw.maps, self.answer_limits.mark(raw.maps, raw.scores))

    def region_of_interest(self, mask: Roi | NDArray[np.uint8]) -> Roi:
        """Return the region of interest of a mask, which may be used for any number of calls.

        Args:
            mask: uint8 ``(H, W)`` of the camera's size: 255 for pixels that count, 0 for others; or
                the result of an earlier call, which is returned.

        Raises:
            InputError: The mask does not fit the camera's image, has other values, or excludes
                nothing or everything; the method accepts no regions; or the result is of another
                detector, whose maps or scores differ.
        """
        if self.roi_frame is None:
            raise InputError("a run takes no region of interest", fix="export it: kdx export RUN -o NAME.kdx")
        return self.roi_frame.roi(mask)

    def _parts(self, images: Any) -> Iterator[Any]:
        """Yield several images in batches that go through the graph at once."""
        self._process.require_current()
        on_device = self._on_device(images, single=False)
        if on_device is not None:
            for start in range(0, on_device.shape[0], self.max_batch):
                yield on_device.part(start, start + self.max_batch)
            return
        batch = self.input.check_batch(images)
        for start in range(0, len(batch), self.max_batch):
            yield np.ascontiguousarray(batch[start : start + self.max_batch])

    def _on_device(self, images: object, *, single: bool = True) -> DeviceArray | None:
        """Return images on the GPU as a batch; None if they are elsewhere or not accepted."""
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
        """Return the verdict on a backend's outputs for one image.

        See :meth:`kdx.decision.rule.DecisionRule.verdict`.

        Args:
            anomaly_map: The graph's map, float32 ``(h, w)``.
            score: The graph's score, float32 ``(1,)``.
            image: The frame, uint8 ``(H, W, C)``, which is checked for faults; None if it lies on
                the GPU.
            roi: A region of interest for this image; None for the bundle's.
        """
        return self.rule.verdict(anomaly_map, score, image, None if roi is None else self.region_of_interest(roi))

    @property
    def view(self) -> FieldOfView:
        """The part of the image that the networks see and the map covers."""
        return self.input.view(self.field_of_view)

    def regions(
        self,
        verdict: Verdict,
        *,
        min_area: float = 0.0,
        pixel_size_um: float | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> list[Region]:
        """Return where a verdict's map exceeds the pixel threshold.

        See :func:`kdx.decision.regions.find_regions`.

        Args:
            verdict: A verdict of this detector.
            min_area: The smallest area of a region, in pixels of the image.
            pixel_size_um: The length on the part that one pixel of the image shows, in micrometres.
            image_size: The height and width of the image in whose pixels regions are given, where
                :func:`kdx.read_image` resized it; None for those of :attr:`input`.

        Raises:
            InputError: The bundle is not calibrated, so that there is no pixel threshold; the
                answer is not one that the method can give; or the verdict is of
                :meth:`judge_file`, which returns the regions itself.
            OptionError: An invalid area or pixel size.
        """
        from kdx.decision.regions import find_regions, invalid_answer

        if verdict.reason is not None and verdict.reason.is_of_answer:
            raise invalid_answer(verdict.reason.value)
        if verdict.pixel_threshold is None:
            raise InputError(
                "a verdict without a pixel threshold has no regions", fix="calibrate: kdx calibrate BUNDLE DATA"
            )
        return find_regions(
            verdict.anomaly_map,
            verdict.pixel_threshold,
            image_size or (self.input.height, self.input.width),
            view=self.view,
            min_area=min_area,
            pixel_size_um=pixel_size_um,
        )

    def _notify(self, verdicts: Sequence[Verdict], seconds: float, shown: Sequence[JudgedFrame]) -> None:
        """Give the observers verdicts that took so long together."""
        for observer in (self.log, self.metrics):
            if observer is not None:
                for verdict, image in zip(verdicts, shown, strict=True):
                    observer.add(verdict, seconds * 1e3 / len(verdicts), image)

    def _require_log(self, part_id: str | None) -> None:
        if part_id is not None and self.log is None:
            raise InputError(
                "`part_id` has no effect: this detector keeps no log",
                received=part_id,
                fix="load it with one: kdx.load(BUNDLE, log=PATH)",
            )

    def close(self) -> None:
        """Free the backend, and close the observers.

        In a process that was forked after the detector was loaded, nothing happens.
        """
        if not self._process.is_current:
            return
        with ExitStack() as closing:  # closes the others even if one raises; the last one is closed first
            for observer in (self.metrics, self.log):
                if observer is not None:
                    closing.callback(observer.close)
            closing.callback(self.backend.close)
