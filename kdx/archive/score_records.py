"""The records that a run of ``kdx score`` keeps and reports."""

from __future__ import annotations

from collections import Counter

import msgspec

from kdx.decision.label_files import LabelledImage
from kdx.decision.map_files import MapFormat
from kdx.imaging.value_range import ValueRange
from kdx.remarks import Remark

SCHEMA = 1
# With maps, masks or regions: an earlier kdx would continue such a folder without them.
FILES_SCHEMA = 2


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the scores of a run: outputs of different settings are never mixed.

    Attributes:
        archive: The folder of images, absolute.
        bundle: The bundle's folder as it was first given; a copy elsewhere is the same bundle.
        bundle_sha256: Hash of its ``bundle.json``, which holds the hash of every file in it, and
            the threshold.
        backend: The backend that runs the graph.
        precision: The precision of the graph.
        shard_size: Images in a shard.
        maps: The format of the maps that are written with the scores; None for no maps.
        masks: Whether masks are written with the scores.
        coco: Whether the regions of each shard's images are written in COCO's format.
        min_area: The smallest area of such a region, in pixels of the image.
    """

    archive: str
    bundle: str
    bundle_sha256: str
    backend: str
    precision: str
    shard_size: int
    maps: MapFormat | None = None
    masks: bool = False
    coco: bool = False
    min_area: float = 0.0

    @property
    def needs_threshold(self) -> bool:
        """Whether a file shows what exceeds the pixel threshold."""
        return self.masks or self.coco


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """One listing of the archive: the images that were new then, in shards.

    Attributes:
        name: The listing's folder in ``files/``.
        first_shard: Number of the first shard.
        shards: Number of shards; all but the last are full.
        frames: Number of images.
        linked_folders: Folders that were skipped because they are symbolic links.
        created: UTC time, ISO 8601.
    """

    name: str
    first_shard: int
    shards: int
    frames: int
    linked_folders: int
    created: str


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``score.json``.

    Attributes:
        schema: Version of this layout.
        kdx_version: The kdx that started the run.
        settings: What decides the scores.
        listed: All listings so far.
    """

    schema: int
    kdx_version: str
    settings: Settings
    listed: list[Listing] = []


class ScoreWork(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to score any shard of a run; its folders are absolute.

    Attributes:
        archive: The folder of images.
        output: The run's folder.
        bundle: The bundle.
        bundle_sha256: Hash that its ``bundle.json`` must have.
        backend: The backend that runs the graph.
        precision: The precision of the graph.
        threads: Threads within an operation.
        batch: Images that go through the graph at once.
        listed: All listings of the run.
        maps: As for :class:`Settings`.
        masks: As for :class:`Settings`.
        coco: As for :class:`Settings`.
        min_area: As for :class:`Settings`.
    """

    archive: str
    output: str
    bundle: str
    bundle_sha256: str
    backend: str
    precision: str
    threads: int
    batch: int
    listed: list[Listing]
    maps: MapFormat | None = None
    masks: bool = False
    coco: bool = False
    min_area: float = 0.0


class ScoreRow(msgspec.Struct, frozen=True, kw_only=True):
    """One image's row in a shard's file.

    Attributes:
        path: Relative to the archive.
        score: Raw anomaly score; None for an image that was skipped.
        decision: A value of :class:`kdx.decision.verdict.Decision`; None for an image that was
            skipped.
        margin: Score / threshold - 1; None without a threshold.
        threshold: The calibrated score, or None.
        frame_faults: Why the frame shows no part, separated by commas; empty for nothing.
        reason: Why the decision is undecided, a value of :class:`kdx.decision.verdict.Reason`; else
            empty.
        error: Why the image was skipped; empty for one that was scored.
        sha256: Hash of the file; None if it could not be read.
        milliseconds: Time to read, decode, hash and score the image; in a batch, its share of the
            graph's time.
        relative_score: Score / threshold; None without a threshold above 0.
        p_value: The conformal p-value of the score, see
            :attr:`kdx.decision.verdict.Verdict.p_value`, or None.
        levels: Which values a 16-bit image holds; None for others. It is counted, and not in the
            shard's file.
        loses_colour: Whether a mono detector saw a colour image in grey. It is counted, and not in
            the shard's file.
        labelled: The image with its regions, for COCO's format; else None. It is not in the shard's
            file.
    """

    path: str
    score: float | None = None
    decision: str | None = None
    margin: float | None = None
    threshold: float | None = None
    frame_faults: str = ""
    reason: str = ""
    error: str = ""
    sha256: str | None = None
    milliseconds: float = 0.0
    relative_score: float | None = None
    p_value: float | None = None
    levels: ValueRange | None = None
    loses_colour: bool = False
    labelled: LabelledImage | None = None


class ShardResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a shard, kept in its file.

    Attributes:
        shard: The shard's number.
        frames: Number of images.
        decisions: Number of images that were scored, by decision.
        bad: Number of images that were skipped.
        seconds: Time spent on the shard, without loading the bundle.
        worker: Host and process that scored it.
        narrow: Number of 16-bit images whose values fill less than a tenth of the declared range.
        narrow_levels: The values that those images hold together; None without such images.
        narrow_example: The first of those images.
        colour: The first few colour images that a mono detector saw in grey.
        colour_count: Number of colour images that a mono detector saw in grey.
    """

    shard: int
    frames: int
    decisions: dict[str, int]
    bad: int
    seconds: float
    worker: str
    narrow: int = 0
    narrow_levels: ValueRange | None = None
    narrow_example: str = ""
    colour: tuple[str, ...] = ()
    colour_count: int = 0


class ThisRun(msgspec.Struct, frozen=True, kw_only=True):
    """What one call did.

    Attributes:
        engine: ``local`` or ``ray``.
        workers: Largest number of processes.
        threads_per_worker: Threads of each process.
        batch: Images that went through the graph at once.
        shards: Number of shards that this call finished.
        frames: Number of images in those shards.
        seconds: Time from the first process's start to the last shard's end.
        frames_per_second: Rate of the whole call, including the start of processes; None if there
            was nothing to do.
        busy_seconds: Total time that the processes spent on shards.
        frames_per_second_per_worker: Rate of one process while it worked.
        deaths: Number of processes that died and were replaced.
    """

    engine: str
    workers: int
    threads_per_worker: int
    batch: int
    shards: int
    frames: int
    seconds: float
    frames_per_second: float | None
    busy_seconds: float
    frames_per_second_per_worker: float | None
    deaths: int


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``summary.json``: the results in the output folder, and the last call.

    Attributes:
        settings: What decided the scores.
        threshold: The calibrated score, or None.
        threshold_by_hand: Why a person set the threshold, in their words, or None.
        held_out_images: The number of good images that p-values stand on; 0 without p-values.
        shards: Number of finished shards.
        frames: Number of images in those shards.
        decisions: Number of images that were scored, by decision.
        bad: Number of images that were skipped.
        quantiles: Quantiles of the finite scores, by share.
        bad_examples: The first few images that were skipped, and why.
        added_since: Number of images that were added to the archive since it was listed: the next
            call scores them.
        linked_folders: Number of symbolic links to folders, which were not followed.
        remarks: What the archive holds and kdx does not score.
        this_run: What this call did.
        narrow: Number of 16-bit images whose values fill less than a tenth of the declared range.
        narrow_levels: The values that those images hold together; None without such images.
        narrow_example: The first of those images.
    """

    settings: Settings
    threshold: float | None
    shards: int
    frames: int
    decisions: dict[str, int]
    bad: int
    quantiles: dict[str, float]
    bad_examples: list[dict[str, str]]
    added_since: int
    linked_folders: int
    remarks: list[Remark]
    this_run: ThisRun
    narrow: int = 0
    narrow_levels: ValueRange | None = None
    narrow_example: str = ""
    threshold_by_hand: str | None = None
    held_out_images: int = 0


def decisions_of(results: list[ShardResult]) -> dict[str, int]:
    """Add up the decisions of several shards."""
    together: Counter[str] = Counter()
    for result in results:
        together.update(result.decisions)
    return dict(together)
