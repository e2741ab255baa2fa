"""The record of a verdict on the line: which part, which image, by which bundle, decided how.

``kdx watch`` and ``kdx serve`` keep one for each image. Its fields of a verdict are those of
``kdx predict --json``.
"""

from __future__ import annotations

import enum
import math
import uuid
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import msgspec

from kdx.decision.verdict import Decision, verdict_fields
from kdx.errors import ImageError, InputError, KdxError
from kdx.monitoring.judged_by import JudgedBy

if TYPE_CHECKING:
    from kdx.decision.verdict import Verdict

# The verdict on a file that is not an image which the detector takes.
UNREADABLE = "unreadable"
# What a record can say of an image. Only "good" lets a part pass.
VERDICTS = (*(decision.value for decision in Decision), UNREADABLE)


class NotJudged(str, enum.Enum):
    """Why no detector judged an image or a part; its verdict is undecided.

    ``BACKEND_FAILED``: the runtime failed. ``NO_BUNDLE``: no bundle belongs to the part.
    ``NAME``: the file's name does not say which view of which part it is. ``VIEW_MISSING``: a view
    of the part did not arrive in time. ``PROCESS_ENDED``: the process ended every time when it
    judged the image. ``UNEXPECTED_ERROR``: a bug in kdx, or in a package.

    Of cameras: ``INCOMPLETE_FRAME``: a part of the frame is missing, or damaged. ``LOST_FRAME``:
    the camera counted the frame, and it did not arrive. ``NO_ROOM``: frames came faster than they
    were judged, or the disk was full. ``CAMERA_GONE``: the camera did not answer, and how many
    frames it took meanwhile is not known. ``MISSED_TRIGGER``: the frame of a trigger did not come
    in time.
    """

    BACKEND_FAILED = "backend_failed"
    NO_BUNDLE = "no_bundle"
    NAME = "name"
    VIEW_MISSING = "view_missing"
    PROCESS_ENDED = "process_ended"
    UNEXPECTED_ERROR = "unexpected_error"
    INCOMPLETE_FRAME = "incomplete_frame"
    LOST_FRAME = "lost_frame"
    NO_ROOM = "no_room"
    CAMERA_GONE = "camera_gone"
    MISSED_TRIGGER = "missed_trigger"


class VerdictRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of a verdict. In JSON, fields that have a default are left out where they have it.

    Attributes:
        verdict_id: The verdict's own identifier. A message that is sent twice has it both times.
        time: UTC time of the verdict by the clock of the machine, ISO 8601 with milliseconds.
        part_id: The part that the image shows, or None.
        image: The name of the image: a path relative to the folder it came from, or what a request
            calls it; None without a name.
        image_sha256: The hash of the file or of the bytes that were sent; None if they could not be
            read.
        bundle: As for :class:`JudgedBy`, and so are the next four; None if no bundle belongs to the
            part.
        bundle_sha256: As for :class:`JudgedBy`.
        graph_sha256: As for :class:`JudgedBy`.
        backend: As for :class:`JudgedBy`.
        precision: As for :class:`JudgedBy`.
        verdict: One of :data:`VERDICTS`.
        score: As for :class:`kdx.decision.verdict.Verdict`, and so are the fields from here to
            ``frame_faults``; None for an image that was not judged, and for a score that is not
            finite.
        threshold: The calibrated score above which an image is defective, or None.
        margin: ``score / threshold - 1``, or None.
        relative_score: ``score / threshold``, or None.
        p_value: The conformal p-value of the score, or None.
        held_out_images: The number of good images that the p-value stands on.
        review_threshold: The score above which somebody should look, or None.
        reason: Why the verdict is undecided: a value of :class:`kdx.decision.verdict.Reason`, or of
            :class:`NotJudged`; None for other verdicts.
        frame_faults: Why the frame shows no part.
        threshold_by_hand: As for :class:`JudgedBy`.
        product: The product by which the bundle was chosen, or None.
        view: The view of the part that the image shows, or None.
        camera: The name of the camera that the frame came from, or None.
        frame: The camera's number of the frame, or None.
        frame_time: UTC time at which the frame came from the camera, or None.
        error: The type, message and details of the error because of which there is no verdict of a
            detector.
    """

    verdict_id: str
    time: str
    part_id: str | None
    image: str | None
    image_sha256: str | None
    bundle: str | None
    bundle_sha256: str | None
    graph_sha256: str | None
    backend: str | None
    precision: str | None
    verdict: str
    score: float | None
    threshold: float | None
    margin: float | None
    relative_score: float | None
    p_value: float | None
    held_out_images: int
    review_threshold: float | None = None
    reason: str | None = None
    frame_faults: tuple[str, ...] = ()
    threshold_by_hand: str | None = None
    product: str | None = None
    view: str | None = None
    camera: str | None = None
    frame: int | None = None
    frame_time: str | None = None
    error: dict[str, str] | None = None

    @property
    def is_good(self) -> bool:
        """Whether the part may pass."""
        return self.verdict == Decision.GOOD.value


class Shown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an image is, whatever is decided about it.

    Attributes:
        image: As for :class:`VerdictRecord`, and so are the others.
        image_sha256: As for :class:`VerdictRecord`.
        part_id: As for :class:`VerdictRecord`.
        product: As for :class:`VerdictRecord`.
        view: As for :class:`VerdictRecord`.
        camera: As for :class:`VerdictRecord`.
        frame: As for :class:`VerdictRecord`.
        frame_time: As for :class:`VerdictRecord`.
    """

    image: str | None
    image_sha256: str | None
    part_id: str | None = None
    product: str | None = None
    view: str | None = None
    camera: str | None = None
    frame: int | None = None
    frame_time: str | None = None


def judged(shown: Shown, verdict: Verdict, by: JudgedBy) -> VerdictRecord:
    """Return the record of a detector's verdict on an image."""
    fields = verdict_fields(verdict)
    numbers = {name: value for name, value in fields.items() if isinstance(value, float)}
    fields |= {name: None for name, value in numbers.items() if not math.isfinite(value)}
    return VerdictRecord(
        verdict_id=new_verdict_id(),
        time=time_now(),
        **msgspec.structs.asdict(shown),
        **msgspec.structs.asdict(by),
        frame_faults=tuple(fields.pop("frame_faults", ())),
        **fields,
    )


def not_judged(shown: Shown, error: KdxError, by: JudgedBy | None, reason: NotJudged | None = None) -> VerdictRecord:
    """Return the record of an image that no detector judged.

    Args:
        shown: What the image is.
        error: What happened. After an ``ImageError`` or an ``InputError`` without a reason, the
            verdict is ``unreadable``; after anything else it is ``undecided``.
        by: What would have judged it; None if no bundle belongs to the part.
        reason: Why there is no verdict; None takes ``BACKEND_FAILED`` for an undecided image.
    """
    is_unreadable = isinstance(error, (ImageError, InputError)) and reason is None
    if reason is None and not is_unreadable:
        reason = NotJudged.BACKEND_FAILED
    nobody = dict.fromkeys(("bundle", "bundle_sha256", "graph_sha256", "backend", "precision"))
    return VerdictRecord(
        verdict_id=new_verdict_id(),
        time=time_now(),
        **msgspec.structs.asdict(shown),
        **(nobody if by is None else msgspec.structs.asdict(by)),
        verdict=UNREADABLE if is_unreadable else Decision.UNDECIDED.value,
        score=None,
        threshold=None,
        margin=None,
        relative_score=None,
        p_value=None,
        held_out_images=0,
        reason=None if reason is None else reason.value,
        error=error.as_dict(),
    )


def new_verdict_id() -> str:
    """Return a new identifier of a verdict. It depends on no clock, which may jump."""
    return str(uuid.uuid4())


def time_now() -> str:
    """Return the UTC time as records hold it: ISO 8601, in milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
