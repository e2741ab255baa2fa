"""The results of a reproduction on disk: a JSON file for each run, and the common settings."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from kd_train.recipes import Recipe
from kd_train.reproduction.choice import MethodVariant
from kdx.errors import CheckpointError, OutputError
from kdx.folders.data_folder import ImageFolder
from kdx.storage.files import sha256_bytes, write_atomic
from kdx.storage.json_records import RUN_INDEX, encode_record, read_record

REPRODUCTION_INDEX = "reproduce.json"
RESULT = "result.json"
SCHEMA = 1


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """One finished run.

    Attributes:
        schema: The version of this layout.
        variant: The slug of the run's variant.
        category: The row of the paper's table that the run is for.
        seed: The run's seed.
        image_auroc: The image AUROC of the test split.
        pixel_auroc: The pixel AUROC of the test split; None without masks.
        pro: The per-region overlap of the test split; None without masks.
        dataset: The key of the published data set that was recognised, or None.
        images: The number of images: ``train``, ``test_good`` and ``test_defective``.
        bad_images: The number of images that could not be used.
        recipe: The hyper-parameters.
        weights: A text that says where the teacher's weights came from.
        train_images: The number of images that the student was trained on.
        seconds: The seconds of training.
        settings_sha256: The hash of the reproduction's settings.
        files_sha256: The hash of the names and sizes of the images.
        versions: The versions of the packages.
        created: The UTC time, ISO 8601.
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
class CategoryData:
    """A category of the user's data.

    Attributes:
        category: The category's name in the data folder; None for data of one category.
        row: The category's name in the paper's tables.
        folder: The category's images.
    """

    category: str | None
    row: str
    folder: ImageFolder

    def counts(self) -> dict[str, int]:
        """Return the number of images of each kind."""
        defective = sum(image.is_defective for image in self.folder.test)
        return {
            "train": len(self.folder.good),
            "test_good": len(self.folder.test) - defective,
            "test_defective": defective,
        }

    def files_sha256(self) -> str:
        """Return a hash of file names and sizes, by which added or removed images are noticed."""
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
    """A run: a variant of the method, a category, a seed, and the run's folder."""

    variant: MethodVariant
    part: CategoryData
    seed: int
    folder: Path


class _ReproductionSettings(msgspec.Struct, frozen=True, kw_only=True):
    schema: int
    settings: dict[str, Any]


class ResultFolder:
    """The output folder of a reproduction.

    Args:
        path: The folder.
        settings: The settings that decide the results, besides variant, category and seed.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.settings_sha256 = sha256_bytes(msgspec.json.encode(settings, order="sorted"))

    def begin(self, *, force: bool) -> None:
        """Create the folder, or check that its results have the same settings.

        Args:
            force: Discard earlier results.

        Raises:
            OutputError: The folder contains something else, or results of other settings.
        """
        index = self.path / REPRODUCTION_INDEX
        if not index.is_file() and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise OutputError(f"'{self.path}' exists and holds no reproduction", fix="choose another `out`")
        if index.is_file() and force:
            # Only the runs of a reproduction are removed, not a user's other files.
            for run in [path.parent for path in self.path.glob(f"*/*/seed-*/{RUN_INDEX}")]:
                shutil.rmtree(run)
            index.unlink()
        if index.is_file() and any(self.path.glob("*/*/seed-*")):
            began = read_record(
                index, _ReproductionSettings, error=CheckpointError, fix="choose another `out`", supported=SCHEMA
            )
            self._require_same(began.settings)
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(index, encode_record(_ReproductionSettings(schema=SCHEMA, settings=self.settings)))

    def job(self, variant: MethodVariant, part: CategoryData, seed: int) -> Job:
        """Return the job of a variant, category and seed."""
        return Job(variant, part, seed, self.path / variant.slug / _slug(part.row) / f"seed-{seed}")

    def finished(self, job: Job) -> JobResult | None:
        """Return a run's result, or None if it has none yet.

        Raises:
            CheckpointError: The result is damaged, or is one of other settings or images.
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
        """Write a result, with which the run is finished."""
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
