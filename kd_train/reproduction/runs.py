"""Training and evaluation for a paper's tables: a run for each variant, category and seed.

In the output folder, ``reproduce.json`` contains the settings, and each
``VARIANT/CATEGORY/seed-N/`` is a run. Its ``result.json`` is written after the evaluation and marks
the run as finished, so a reproduction resumes at any point.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kd_train.datasets import categories as categories_of
from kd_train.datasets import open_data
from kd_train.evaluation.evaluate import Evaluation, evaluate
from kd_train.evaluation.reference_detector import load_detector
from kd_train.reproduction.choice import Choice, MethodVariant, choose
from kd_train.reproduction.papers import EVERY, data_sets
from kd_train.reproduction.result_folder import SCHEMA, CategoryData, Job, JobResult, ResultFolder
from kd_train.training.options import TrainOptions
from kd_train.training.students import TrainResult
from kd_train.training.train import train
from kdx.errors import OptionError
from kdx.folders.apart import require_apart_from_images
from kdx.folders.data_folder import ImageFolder, require_good, require_test
from kdx.loading.load import require_outside_bundles
from kdx.progress import SILENT, Progress, Task
from kdx.storage.json_records import now

# Recorded beside the training options, or set by this command.
_RECORDED_ELSEWHERE = ("method", "category", "seed")


@dataclass(frozen=True)
class ReproduceOptions:
    """What the user asked for.

    Attributes:
        method: kdx's name of the method.
        data: The data folder.
        out: The folder for runs and results.
        categories: The categories to use; empty for those that the tables are about.
        seeds: The number of runs of each variant and category, with seeds from 0.
        table: A table of the method's paper; None for those of the method as proposed.
        variants: The columns of the table; empty for all.
        force: Discard earlier results.
        training: The other options of training; None stands for the paper's value.
    """

    method: str
    data: Path
    out: Path
    categories: tuple[str, ...] = ()
    seeds: int = 3
    table: int | None = None
    variants: tuple[str, ...] = ()
    force: bool = False
    training: TrainOptions = field(default_factory=TrainOptions)

    def asked(self) -> dict[str, Any]:
        """Return the training options that the user gave and that decide a result."""
        return self.training.changed(without=_RECORDED_ELSEWHERE)


@dataclass(frozen=True)
class Reproduction:
    """The results of a reproduction.

    Attributes:
        choice: The figures that are compared.
        categories: The rows of the user's categories, in order.
        seeds: The number of seeds.
        results: The results of all runs.
    """

    choice: Choice
    categories: tuple[str, ...]
    seeds: int
    results: tuple[JobResult, ...]


def reproduce(
    options: ReproduceOptions,
    progress: Progress = SILENT,
    report: Callable[[JobResult, bool], None] = lambda _result, _is_new: None,
) -> Reproduction:
    """Train and evaluate all runs that are not finished.

    Args:
        options: The user's options.
        progress: The progress display of each run.
        report: A function that is called with each result and whether it is new.

    Raises:
        OptionError: An option is invalid, or a column of the table sets it.
        DataError: The data folder cannot be used.
        OutputError: The output folder contains results of other settings, or lies in a bundle or a
            run.
        KdxError: Training or evaluation failed. Finished results are kept.
    """
    require_outside_bundles(options.out, "out")
    require_apart_from_images("runs", options.out, [options.data])
    choice, parts = _prepare(options, progress)
    results = ResultFolder(options.out, {"method": options.method, **options.asked()})
    results.begin(force=options.force)
    jobs = [
        results.job(variant, part, seed)
        for seed in range(options.seeds)
        for part in parts
        for variant in choice.variants_for(part.row)
    ]
    made = []
    for index, job in enumerate(jobs, start=1):
        result = results.finished(job)
        is_new = result is None
        if result is None:
            name = " ".join(filter(None, (job.variant.name, job.part.row)))
            label = f"[{index}/{len(jobs)}] {name}, seed {job.seed}:"
            result = _make(job, choice, options, results, _Labelled(progress, label))
        report(result, is_new)
        made.append(result)
    return Reproduction(choice, tuple(part.row for part in parts), options.seeds, tuple(made))


def _prepare(options: ReproduceOptions, progress: Progress) -> tuple[Choice, tuple[CategoryData, ...]]:
    """Check method, table, categories, images and options before anything is trained."""
    if not 1 <= options.seeds <= 1000:
        raise OptionError("`seeds` is out of range", expected="1 to 1000", received=str(options.seeds))
    choose(options.method, None, options.table, options.variants)  # reports a wrong method or table before wrong data
    names = categories_of(options.data)
    unknown = [name for name in options.categories if name not in names]
    if unknown:
        raise OptionError(
            f"there is no category '{unknown[0]}' in '{options.data}'",
            expected=", ".join(names) or "no `categories`: the folder has one category",
        )
    wanted: tuple[str | None, ...] = tuple(dict.fromkeys(options.categories)) or names or (None,)
    first = open_data(options.data, wanted[0], progress=progress)
    # A data set in another layout is not recognised; the folder's name then says which figures are
    # meant.
    named = options.data.resolve().name.lower()
    dataset = first.dataset or (named if named in data_sets() else None)
    choice = choose(options.method, dataset, options.table, options.variants)
    if not options.categories:
        about = [c for v in choice.variants for c in v.categories] if all(v.categories for v in choice.variants) else []
        wanted = tuple(name for name in wanted if _row(name, first, choice) in about) or wanted
    folders = {name: open_data(options.data, name, progress=progress) for name in wanted}
    parts = tuple(CategoryData(name, _row(name, folder, choice), folder) for name, folder in folders.items())
    for part in parts:
        require_good(part.folder)
        require_test(part.folder)
    _refuse_clash(options, choice)
    return choice, parts


def _refuse_clash(options: ReproduceOptions, choice: Choice) -> None:
    """Raise ``OptionError`` for an option that a column of the table sets."""
    asked = options.asked()
    for variant in choice.variants:
        clash = [name for name in variant.settings if name in asked]
        if clash:
            raise OptionError(
                f"`{clash[0]}` is what column '{variant.name}' of table {options.table} sets",
                received=f"{asked[clash[0]]}, against the column's {variant.settings[clash[0]]}",
                fix="leave the option out, or choose columns with `variants`",
            )


def _row(name: str | None, folder: ImageFolder, choice: Choice) -> str:
    """Return the name of a category in the paper's tables."""
    if name is None and choice.data_set.categories == (EVERY,):
        return EVERY
    called = name or folder.category or folder.root.resolve().name
    return next((c for c in choice.data_set.categories if c.lower() == called.lower()), called)


def training_options(choice: Choice, variant: MethodVariant, asked: TrainOptions) -> TrainOptions:
    """Return a variant's training options: the column's, the user's, otherwise the paper's."""
    printed: dict[str, Any] = {"backbone": choice.facts.backbone, **choice.facts.on.get(choice.data, {})}
    printed = {name: value for name, value in printed.items() if getattr(asked, name) is None}
    return replace(asked, method=choice.method, **{**printed, **variant.settings})


def _make(job: Job, choice: Choice, options: ReproduceOptions, results: ResultFolder, progress: Progress) -> JobResult:
    """Train or resume a run, evaluate it, and write its result."""
    asked = training_options(choice, job.variant, options.training)
    files = job.part.files_sha256()
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    trained = train(
        options.data,
        job.folder,
        replace(asked, category=job.part.category, seed=job.seed, resume=True, force=False),
        progress,
    )
    folder = job.part.folder
    with load_detector(job.folder) as detector:
        evaluation = evaluate(
            detector, folder.root, require_test(folder), max_bad_images=asked.max_bad_images, progress=progress
        )
    result = _result(job, trained, evaluation, results.settings_sha256, files)
    results.write(job, result)
    return result


def _result(job: Job, trained: TrainResult, evaluation: Evaluation, settings: str, files: str) -> JobResult:
    config = trained.run.config
    return JobResult(
        schema=SCHEMA,
        variant=job.variant.slug,
        category=job.part.row,
        seed=job.seed,
        image_auroc=evaluation.image_auroc,
        pixel_auroc=_known(evaluation.pixel_auroc),
        pro=_known(evaluation.pro),
        dataset=job.part.folder.dataset,
        images=job.part.counts(),
        bad_images=len(trained.bad_images) + len(evaluation.bad_images),
        recipe=config.recipe,
        weights=config.weights,
        train_images=len(config.train_images),
        seconds=round(sum(epoch.seconds for epoch in trained.history), 3),
        settings_sha256=settings,
        files_sha256=files,
        versions=config.versions,
        created=now(),
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


class _Labelled:
    """A progress display whose tasks name the run."""

    def __init__(self, progress: Progress, label: str) -> None:
        self.progress = progress
        self.label = label

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        return self.progress.task(f"{self.label} {description}", total)
