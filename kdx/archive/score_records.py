"""What a run of ``kdx score`` keeps and reports."""

from __future__ import annotations

from collections import Counter

import msgspec

from kdx.imaging.value_range import Levels
from kdx.remarks import Remark

SCHEMA = 1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the scores of a run: output of other settings is never mixed with it.

    Attributes:
        archive: The folder of images, absolute.
        bundle: The bundle's folder as it was named first; a copy elsewhere is the same bundle.
        bundle_sha256: Hash of its ``bundle.json``, which holds the hash of every file in it, and the threshold.
        backend: What runs the graph.
        precision: Of the graph.
        shard_size: Images in a shard.
    """

    archive: str
    bundle: str
    bundle_sha256: str
    backend: str
    precision: str
    shard_size: int


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One listing of the archive: the images that were new then, in shards.

    Attributes:
        name: Its folder in ``files/``.
        first_shard: Number of its first shard.
        shards: How many there are; all but the last are full.
        frames: Images in it.
        linked_folders: Folders that were passed over, for they are symbolic links.
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
        kdx_version: The kdx that began it.
        settings: What decides the scores.
        listed: Every listing so far.
    """

    schema: int
    kdx_version: str
    settings: Settings
    listed: list[Listed] = []


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needs to score any shard of a run. Folders are absolute: on a cluster, on shared storage.

    Attributes:
        archive: The folder of images.
        output: The run's folder.
        bundle: The bundle.
        bundle_sha256: Hash that its ``bundle.json`` must have.
        backend: What runs the graph.
        precision: Of the graph.
        threads: Threads within an operation.
        batch: Images that go through the graph at once.
        listed: Every listing of the run.
    """

    archive: str
    output: str
    bundle: str
    bundle_sha256: str
    backend: str
    precision: str
    threads: int
    batch: int
    listed: list[Listed]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One image's line in a shard's file.

    Attributes:
        path: Relative to the archive.
        score: Raw anomaly score; None for an image that was passed over.
        decision: As :class:`kdx.decision.verdict.Decision` has it; None likewise.
        margin: Score / threshold - 1; None without a threshold.
        threshold: The calibrated score, or None.
        frame_faults: Why the frame shows no part, separated by commas; empty for nothing.
        reason: Why the decision is undecided, as :class:`kdx.decision.verdict.Reason` has it; empty where it is not.
        error: Why the image was passed over; empty for one that was scored.
        sha256: Of the file; None where it could not be read.
        milliseconds: To read, decode, hash and score it; in a batch, its share of the graph's time.
        levels: Which values a 16-bit image holds; None for others. Counted, and not in the shard's file.
        loses_colour: Whether a mono detector saw a colour image in grey; likewise.
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
    levels: Levels | None = None
    loses_colour: bool = False


class ShardResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a shard; kept in its file.

    Attributes:
        shard: Its number.
        frames: Images in it.
        decisions: Images that were scored, by decision.
        bad: Images that were passed over.
        seconds: Of work, the bundle's loading apart.
        worker: Host and process that scored it.
        narrow: 16-bit images whose values fill less than a tenth of the declared range.
        narrow_levels: The values of all of them; None where there are none.
        narrow_example: The first of them.
        colour: The first few colour images that a mono detector saw in grey.
        colour_count: How many there are.
    """

    shard: int
    frames: int
    decisions: dict[str, int]
    bad: int
    seconds: float
    worker: str
    narrow: int = 0
    narrow_levels: Levels | None = None
    narrow_example: str = ""
    colour: tuple[str, ...] = ()
    colour_count: int = 0


class ThisRun(msgspec.Struct, frozen=True, kw_only=True):
    """What one call did.

    Attributes:
        engine: ``local`` or ``ray``.
        workers: Processes, at most.
        threads_per_worker: Threads of each.
        batch: Images that went through the graph at once.
        shards: Finished by this call.
        frames: Images in them.
        seconds: From the first process's start to the last shard's end.
        frames_per_second: Of the whole call, the processes' starts included; None where there was nothing to do.
        busy_seconds: What the processes spent on shards, added up.
        frames_per_second_per_worker: Of a process while it worked.
        deaths: Processes that died and were replaced.
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
    """The content of ``summary.json``: everything that is in the output folder, and what the last call did.

    Attributes:
        settings: What decided the scores.
        threshold: The calibrated score, or None.
        shards: Finished.
        frames: Images in them.
        decisions: Images that were scored, by decision.
        bad: Images that were passed over.
        quantiles: Of the finite scores, by share.
        bad_examples: The first few images that were passed over, and why.
        added_since: Images that came into the archive since it was listed: the next call scores them.
        linked_folders: Symbolic links to folders that were not followed.
        remarks: What the archive holds and kdx does not score.
        this_run: What this call did.
        narrow: 16-bit images whose values fill less than a tenth of the declared range.
        narrow_levels: The values of all of them; None where there are none.
        narrow_example: The first of them.
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
    narrow_levels: Levels | None = None
    narrow_example: str = ""


def decisions_of(results: list[ShardResult]) -> dict[str, int]:
    """Add up the decisions of several shards."""
    together: Counter[str] = Counter()
    for result in results:
        together.update(result.decisions)
    return dict(together)
