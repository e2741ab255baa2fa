"""What the service answers: the record of a verdict, its regions, and the map where asked for."""

from __future__ import annotations

import msgspec

from kdx.decision.map_files import MapFormat, MapPlace, encode_map
from kdx.decision.regions import Region, find_regions
from kdx.decision.verdict import Verdict
from kdx.imaging.images import InputSpec
from kdx.monitoring.judged_by import JudgedBy
from kdx.station.record import VerdictRecord
from kdx.station.serve.sent_image import Buffer, Layout


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for.

    Attributes:
        layout: How the bytes of a frame are laid out; None for the content of a file.
        part_id: The part that the image shows, or None.
        product: The product by which the bundle is chosen, or None.
        image: What the request calls the image, or None.
        map: The format of the map; None for no map.
        min_area: The smallest area of a region, in pixels of the image.
        pixel_size_um: The length on the part that one pixel shows, in micrometres, or None.
    """

    layout: Layout | Buffer | None = None
    part_id: str | None = None
    product: str | None = None
    image: str | None = None
    map: MapFormat | None = None
    min_area: float = 0.0
    pixel_size_um: float | None = None


class Covered(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the image that a map covers, in pixels of the image."""

    left: float
    top: float
    right: float
    bottom: float


class SentMap(msgspec.Struct, frozen=True, kw_only=True):
    """A map in an answer.

    Attributes:
        format: ``npy``, ``tiff`` or ``png``.
        data: The content of the file, in base64.
        scale: The factor that turns the stored values into those of the map.
        covers: The part of the image that the map covers.
    """

    format: MapFormat
    data: bytes
    scale: float
    covers: Covered


class VerdictAnswer(VerdictRecord, frozen=True, kw_only=True, omit_defaults=True):
    """The record of a verdict, with what the request asked for.

    Attributes:
        regions: Where the map exceeds the pixel threshold, the region with the highest peak first,
            in pixels of the image that was sent; None where the bundle has no pixel threshold, and
            for an answer that the method cannot give.
        map: The map, if it was asked for and the answer is one that the method can give.
        warnings: What is doubtful about the values of the image.
    """

    regions: list[Region] | None
    map: SentMap | None = None
    warnings: tuple[str, ...] = ()


class BundleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that is served.

    Attributes:
        name: Its name in URLs.
        verdicts: Where images are sent to.
        input: The images that it accepts.
        loaded: The bundle, its graph and its backend, as records name them.
        threshold: The calibrated score above which an image is defective, or None.
        review_threshold: The score above which somebody should look, or None.
        pixel_threshold: The map value that regions exceed, or None.
        queue: How many requests may be received, wait or be judged at once.
    """

    name: str
    verdicts: str
    input: InputSpec
    loaded: JudgedBy
    threshold: float | None
    review_threshold: float | None
    pixel_threshold: float | None
    queue: int


def answer_of(
    record: VerdictRecord, verdict: Verdict, place: MapPlace, asked: Asked, warnings: tuple[str, ...]
) -> VerdictAnswer:
    """Return the answer for a verdict.

    Args:
        record: The record of the verdict.
        verdict: The verdict.
        place: Where its map lies in the image that was sent.
        asked: What the request asks for.
        warnings: What is doubtful about the image.
    """
    is_valid = verdict.reason is None or not verdict.reason.is_of_answer
    return VerdictAnswer(
        **msgspec.structs.asdict(record),
        regions=_regions(verdict, place, asked) if is_valid else None,
        map=_map(verdict, place, asked.map) if is_valid and asked.map is not None else None,
        warnings=warnings,
    )


def _regions(verdict: Verdict, place: MapPlace, asked: Asked) -> list[Region] | None:
    if verdict.pixel_threshold is None:
        return None
    return find_regions(
        verdict.anomaly_map,
        verdict.pixel_threshold,
        (place.height, place.width),
        view=place.view,
        min_area=asked.min_area,
        pixel_size_um=asked.pixel_size_um,
    )


def _map(verdict: Verdict, place: MapPlace, form: MapFormat) -> SentMap:
    data, scale = encode_map(verdict, place, form)
    left, top, right, bottom = place.box
    return SentMap(format=form, data=data, scale=scale, covers=Covered(left=left, top=top, right=right, bottom=bottom))
