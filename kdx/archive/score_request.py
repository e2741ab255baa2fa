"""What the user asks of ``kdx score``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdx.decision.map_files import MapFormat
from kdx.decision.regions import require_sizes
from kdx.errors import OptionError
from kdx.loading.load import require_outside_bundles
from kdx.storage.spreadsheet import CsvStyle


@dataclass(frozen=True)
class ScoreRequest:
    """What the user asked for.

    Attributes:
        bundle: The bundle.
        archive: The folder of images.
        out: The output folder.
        engine: ``local`` or ``ray``.
        workers: Largest number of processes; None for as many as the cores take.
        threads_per_worker: Threads of each process.
        batch: Images that go through the graph at once.
        shard_size: Images in a shard; None keeps that of the folder, or takes 1000.
        backend: A backend's name; ``auto`` keeps that of the folder, or takes what ``kdx.load``
            would take.
        precision: The precision of the graph; None keeps that of the folder, or takes what
            ``kdx.load`` would take.
        address: Address of a running Ray cluster.
        max_retries: How often a shard whose process died is tried again.
        max_bad_share: Share of the images that may be skipped.
        retry_bad: Score shards with skipped images once more.
        force: Discard what earlier calls wrote.
        csv: The style of the table of all scores; None for no table.
        maps: The format of maps; None keeps that of the folder, or writes none.
        masks: Whether masks are written; False keeps the choice of the folder.
        coco: Whether the regions of each shard's images are written in COCO's format; False keeps
            the choice of the folder.
        min_area: The smallest area of a region, in pixels of the image; None keeps that of the
            folder, or takes 0.
    """

    bundle: Path
    archive: Path
    out: Path
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    threads_per_worker: int = 1
    batch: int = 1
    shard_size: int | None = None
    backend: str = "auto"
    precision: str | None = None
    address: str | None = None
    max_retries: int = 2
    max_bad_share: float = 0.1
    retry_bad: bool = False
    force: bool = False
    csv: CsvStyle | None = None
    maps: MapFormat | None = None
    masks: bool = False
    coco: bool = False
    min_area: float | None = None

    def check(self) -> None:
        """Check what does not depend on the bundle.

        Raises:
            OptionError: A value is invalid, or has no effect.
            OutputError: The output folder lies in a bundle or a run.
        """
        if not 0 <= self.max_bad_share <= 1:
            raise OptionError(
                "`max_bad_share` is out of range", expected="0 to 1, e.g. 0.01", received=f"{self.max_bad_share:g}"
            )
        if (self.maps or self.masks) and self.out.resolve().is_relative_to(self.archive.resolve()):
            raise OptionError(
                f"maps and masks would lie in the archive '{self.archive}', and be scored as images",
                fix="choose an `out` outside of it",
            )
        require_sizes(self.min_area or 0.0)
        if self.min_area is not None and not self.coco:
            raise OptionError(
                "`min_area` has no effect without `coco`", fix="pass `coco=True`, or leave `min_area` out"
            )
        require_outside_bundles(self.out, "out")
        if self.address is not None and self.engine != "ray":
            raise OptionError(
                "an address is only for the engine 'ray'", fix="pass `engine='ray'`, or leave `address` out"
            )
