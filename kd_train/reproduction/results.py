"""The results of a reproduction on disk: one JSON a run, and the settings that all of them share."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from kd_train.recipes import Recipe
from kd_train.reproduction.choice import Variant
from kdx.errors import CheckpointError, OutputError
from kdx.folders.data_folder import ImageFolder
from kdx.storage.files import sha256_bytes, write_atomic
from kdx.storage.json_records import RUN_INDEX, encode_record, read_record

INDEX = "reproduce.json"
RESULT = "result.json"
SCHEMA = 1


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """One finished run.

    Attributes:
        schema: Version of this layout.
        variant: Its variant's slug.
        category: The row of the table that it is for.
        seed: Its seed.
        image_auroc: Of the test split.
        pixel_auroc: Likewise; None without masks.
        pro: Likewise.
        dataset: The published data set that the images were recognised as, or None.
        images: How many were found: ``train``, ``test_good`` and ``test_defective``.
        bad_images: How many of them could not be used.
        recipe: What the student was trained with.
        weights: Where the teacher's weights came from.
        train_images: How many the student was trained on.
        seconds: Of training.
        settings_sha256: Of the settings that it was made with.
        files_sha256: Of the names and sizes of the images.
        versions: Of the packages.
        created: UTC time, ISO 8601.
    """

    schema: int
    variant: str
    category: str
    seed: int
    image_auroc: float
    pixel_auroc: float | None
    pro: float | None
    dataset: str | None
    images: dict[str, int]
    bad_images: int
    recipe: Recipe
    weights: str
    train_images: int
    seconds: float
    settings_sha256: str
    files_sha256: str
    versions: dict[str, str]
    created: str


@dataclass(frozen=True)
class Part:
    """A category of the data at hand.

    Attributes:
        category: As the data folder calls it; None for data of one category.
        row: As the paper's tables call it.
        folder: Its images.
    """

    category: str | None
    row: str
    folder: ImageFolder

    def counts(self) -> dict[str, int]:
        """Count the images."""
        defective = sum(image.is_defective for image in self.folder.test)
        return {
            "train": len(self.folder.good),
            "test_good": len(self.folder.test) - defective,
            "test_defective": defective,
        }

    def files_sha256(self) -> str:
        """Hash names and sizes: cheap, and enough to notice that images came or went."""
        root = self.folder.root
        files = [*self.folder.good, *(path for t in self.folder.test for path in (t.path, t.mask) if path is not None)]
        lines = (
            f"{path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name} {path.stat().st_size}"
            for path in files
            if path.is_file()
        )
        return sha256_bytes("\n".join(sorted(lines)).encode())


@dataclass(frozen=True)
class Job:
    """One run to make: a variant of the method, a category, a seed, and the run's folder."""

    variant: Variant
    part: Part
    seed: int
    folder: Path


class _Settings(msgspec.Struct, frozen=True, kw_only=True):
    schema: int
    settings: dict[str, Any]


class ResultFolder:
    """The output folder of a reproduction.

    Args:
        path: The folder.
        settings: What decides its results, beside variant, category and seed.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.settings_sha256 = sha256_bytes(msgspec.json.encode(settings, order="sorted"))

    def begin(self, *, force: bool) -> None:
        """Make the folder, or see that it holds results of the same settings; ``force`` discards those it holds.

        Raises:
            OutputError: It holds something else, or results of other settings.
        """
        index = self.path / INDEX
        if not index.is_file() and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise OutputError(f"'{self.path}' exists and holds no reproduction", fix="choose another `out`")
        if index.is_file() and force:
            # Only what this command made; whatever else a user keeps beside it stays.
            for run in [path.parent for path in self.path.glob(f"*/*/seed-*/{RUN_INDEX}")]:
                shutil.rmtree(run)
            index.unlink()
        if index.is_file():
            began = read_record(index, _Settings, error=CheckpointError, fix="choose another `out`", supported=SCHEMA)
            self._require_same(began.settings)
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(index, encode_record(_Settings(schema=SCHEMA, settings=self.settings)))

    def job(self, variant: Variant, part: Part, seed: int) -> Job:
        """Say where a run stands."""
        return Job(variant, part, seed, self.path / variant.slug / _slug(part.row) / f"seed-{seed}")

    def finished(self, job: Job) -> JobResult | None:
        """Return a run's result, or None where it has none yet.

        Raises:
            CheckpointError: It is damaged, or was made of other images.
        """
        path = job.folder / RESULT
        if not path.is_file():
            return None
        again = f"remove '{job.folder}' to make it again, or choose another `out`"
        result = read_record(path, JobResult, error=CheckpointError, fix=again, supported=SCHEMA)
        if result.settings_sha256 != self.settings_sha256:
            raise CheckpointError(f"'{path}' is a result of other settings", fix=again)
        if result.files_sha256 != job.part.files_sha256():
            raise CheckpointError(f"the images of '{job.part.row}' changed since '{path}' was made", fix=again)
        return result

    def write(self, job: Job, result: JobResult) -> None:
        """Keep a result: from now on the run is finished."""
        write_atomic(job.folder / RESULT, encode_record(result))

    def _require_same(self, began: dict[str, Any]) -> None:
        asked = self.settings
        changed = [name for name in {**began, **asked} if began.get(name) != asked.get(name)]
        if changed:
            raise OutputError(
                f"'{self.path}' holds results of other settings: {', '.join(changed)} changed",
                expected=", ".join(f"{name} {began.get(name, 'as the paper')}" for name in changed),
                received=", ".join(f"{name} {asked.get(name, 'as the paper')}" for name in changed),
                fix="give the options of the first call, choose another `out`, or begin again with `force=True`",
            )


def _slug(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "data"
