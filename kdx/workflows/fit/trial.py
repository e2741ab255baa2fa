"""The second stage for one candidate: train, export, calibrate, evaluate and time it."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import msgspec

from kd_train.data.reduction import reduction_remark
from kd_train.training.options import TrainOptions
from kd_train.training.quantization import quantize_run
from kd_train.training.run_config import TRAINING_PACKAGES
from kd_train.training.run_folder import Run
from kd_train.training.train import train
from kdx.bundle.bundle import Bundle
from kdx.bundle.open import open_bundle
from kdx.errors import BundleError, CheckpointError, KdxError
from kdx.loading.bundle_detector import detector_of
from kdx.progress import Progress
from kdx.runtime.machine import Machine, cpu_features, package_versions
from kdx.storage.files import sha256_bytes
from kdx.storage.json_records import INT8_FOLDER, RUN_INDEX
from kdx.verification.held_out import LEAST_GOOD
from kdx.workflows.calibrate import CalibrationRequest, calibrate_each
from kdx.workflows.export import export_run
from kdx.workflows.fit.accuracy_images import AccuracyImages, find_accuracy_images
from kdx.workflows.fit.cpu_timing import cpu_backend_precision_pairs, time_precision
from kdx.workflows.fit.deadline import Deadline, TooLongError, teacher_epochs_left
from kdx.workflows.fit.fit_folder import FitFolder
from kdx.workflows.fit.material import Material
from kdx.workflows.fit.request import FitRequest
from kdx.workflows.fit.trial_records import Measured, MethodSize, Screened, Trial, fastest_timing
from kdx.workflows.many.product_remarks import remarks_on_product

# Medians of one graph on one idle machine agree far better than this.
_BUSY = 1.5


@dataclass
class Workshop:
    """What every trial needs, and the accuracy images that the first one finds for all.

    Attributes:
        request: What the user asked for.
        material: The images.
        folder: The output folder.
        machine: Where latencies are measured.
        progress: Shows the work.
        say: Takes lines on what is done.
        deadline: When the search ends.
        without_int8: The candidates whose INT8 stage did not fit into the hours.
        accuracy_images: What accuracy is measured on; None until a run names its held-out images.
    """

    request: FitRequest
    material: Material
    folder: FitFolder
    machine: Machine
    progress: Progress
    say: Callable[[str], None]
    deadline: Deadline
    accuracy_images: AccuracyImages | None = None
    without_int8: set[MethodSize] = field(default_factory=set)

    def is_trained(self, screened: Screened) -> bool:
        """Whether a candidate's run is there with all its epochs."""
        candidate = screened.candidate
        try:
            run = Run(self.folder.run(candidate))
            recipe = self.request.recipe_of(candidate)
            # The heads are found when the training begins, and are no option.
            trained = msgspec.structs.replace(run.config.recipe, heads=())
            run.require_finished()
        except CheckpointError:
            return False
        return trained == recipe

    def trial(self, screened: Screened) -> Trial:
        """Return a candidate's result; whatever of it is done already is not done again.

        Raises:
            KdxError: Training, export, calibration or evaluation failed.
            TooLongError: The training would end after the search. Its complete epochs are kept.
        """
        candidate = screened.candidate
        if not self.is_trained(screened):
            self._train(candidate)
            gc.collect()  # the trainer's images and features, before anything else takes memory
        run = Run(self.folder.run(candidate))
        if self.accuracy_images is None:
            self.accuracy_images = self._find_accuracy_images(run)
        precisions = screened.precisions
        kept = self.folder.trial(candidate, self._key(run, precisions, self.accuracy_images))
        if kept is not None:
            try:
                self.folder.measured_bundle(candidate, kept.bundle_sha256)
            except BundleError as error:
                self.say(f"{candidate}: {error.message}: it is exported and measured again")
            else:
                return kept
        trial = self._measure(run, screened, precisions, self.accuracy_images)
        self._keep(trial)
        return trial

    def _keep(self, trial: Trial) -> None:
        """Keep a result for later calls, unless they may have more: an INT8 stage, or a latency."""
        if trial.candidate not in self.without_int8 and not trial.failed:
            self.folder.write_trial(trial)

    def _train(self, candidate: MethodSize) -> None:
        path, recipe = self.folder.run(candidate), self.request.recipe_of(candidate)
        path.parent.mkdir(parents=True, exist_ok=True)
        watch: AbstractContextManager[Progress]
        if (path / RUN_INDEX).exists():  # its own steps alone tell how much is left to do
            watch = nullcontext(self.deadline.watched(self.progress, recipe, teacher_epochs_left(path, recipe)))
        else:
            watch = self.deadline.training(candidate, recipe, self.progress)
        with watch as progress:
            train(self.request.data, path, self.request.options_of(candidate), progress)

    def _find_accuracy_images(self, run: Run) -> AccuracyImages:
        held_out = self.material.held_out(list(run.config.validation_images.values()))
        return find_accuracy_images(
            self.material, self.folder, held_out, run.config.input, self.progress, seed=self.request.training.seed
        )

    def _key(self, run: Run, precisions: Sequence[str], images: AccuracyImages) -> str:
        """Return a hash of everything that decides a result, except the budget."""
        request, stage = self.request, _int8_stage(run) if "int8" in precisions else None
        parts = {
            "checkpoint": run.checkpoint(run.config.recipe.checkpoint).sha256,
            "int8_checkpoint": stage.checkpoint(stage.config.recipe.checkpoint).sha256 if stage is not None else "",
            "precisions": precisions,
            "false_reject_rate": request.false_reject_rate,
            "percentile": request.percentile,
            "machine": self.machine,
            "features": cpu_features(),
            "packages": package_versions(TRAINING_PACKAGES),
            "evidence": [images.kind, images.sha256],
        }
        return sha256_bytes(msgspec.json.encode(parts))

    def _measure(self, run: Run, screened: Screened, precisions: Sequence[str], images: AccuracyImages) -> Trial:
        candidate, request, recipe = screened.candidate, self.request, run.config.recipe
        bundle, refused = self._exported(run, screened, precisions)
        calibration = CalibrationRequest(
            request.false_reject_rate,
            backend=screened.fastest.backend if screened.fastest else "auto",
            threads=request.threads,
            max_bad_images=request.training.max_bad_images,
        )
        good = [record.path for record in self.material.good]
        found = calibrate_each(bundle, good, calibration, progress=self.progress)
        calibrated = open_bundle(bundle.path)
        pairs = cpu_backend_precision_pairs(calibrated, calibrated.manifest.precisions)
        measured, failed = self._measured(calibrated, {precision: None for _, precision in pairs}, images)
        history = run.checkpoint("last").history
        stage = _int8_stage(run) if "int8" in precisions else None
        learnt = [*history, *(stage.checkpoint("last").history if stage is not None else [])]
        reduced = reduction_remark(self.material.good, run.config.input, recipe.crop_from or recipe.image_size)
        return Trial(
            candidate=candidate,
            key=self._key(run, precisions, images),
            bundle_sha256=calibrated.index_sha256,
            epochs=history[-1].epoch,
            train_images=len(run.config.train_images),
            held_out_images=len(run.config.validation_images),
            seconds=round(sum(epoch.seconds for epoch in learnt) + run.distillation_seconds, 1),
            measured=measured,
            refused={**refused, **found.refusals()},
            failed=failed,
            teacher_comparisons=run.config.distilled.comparisons if run.config.distilled else [],
            remarks=remarks_on_product(None, reduced, found, None),
        )

    def _exported(self, run: Run, screened: Screened, precisions: Sequence[str]) -> tuple[Bundle, dict[str, str]]:
        """Return the bundle, and why precisions are missing.

        Where INT8 that was made after the training is refused, the students are trained as INT8
        networks. If that fails, FP32 remains.
        """

        def export(wanted: Sequence[str]) -> tuple[Bundle, dict[str, str]]:
            path = self.folder.bundle(screened.candidate)
            bundle, _, refused = export_run(
                run.path, path, precisions=tuple(wanted), force=True, progress=self.progress
            )
            return bundle, refused

        has_stage = (run.path / INT8_FOLDER / RUN_INDEX).exists()
        if "int8" in precisions and has_stage and _int8_stage(run) is None:  # an earlier call was interrupted
            failed = self._train_int8(run, screened.candidate)
            if failed:
                bundle, refused = export([each for each in precisions if each != "int8"])
                return bundle, {**refused, "int8": failed}
        bundle, refused = export(precisions)
        # With fewer held-out images, the gate would refuse these too.
        if "int8" not in refused or has_stage or len(run.config.validation_images) < LEAST_GOOD:
            return bundle, refused
        if self.deadline.left_s > 0:
            self.say(f"{screened.candidate}: INT8 after training was refused, so its students are trained as INT8")
        failed = self._train_int8(run, screened.candidate)
        return (bundle, {**refused, "int8": f"{refused['int8']}; {failed}"}) if failed else export(precisions)

    def _train_int8(self, run: Run, candidate: MethodSize) -> str:
        """Train the INT8 stage of a run, or continue to; return why it failed, or nothing."""
        training = self.request.training
        if self.deadline.left_s == 0:
            self.without_int8.add(candidate)
            return "its students were not trained as INT8: the hours were spent"
        options = TrainOptions(
            max_bad_images=training.max_bad_images,
            workers=training.workers,
            memory_mib=training.memory_mib,
            device=training.device,
            resume=True,
        )
        try:
            quantize_run(run.path, options, progress=self.deadline.watched(self.progress, run.config.recipe))
        except KdxError as error:
            return f"its students could not be trained as INT8: {error.message}"
        except TooLongError as error:
            self.without_int8.add(candidate)
            return f"its students were not trained as INT8: {error}"
        gc.collect()
        return ""

    def timed_again(self, trial: Trial) -> Trial:
        """Measure a result's latencies once more, and keep it with these."""
        assert self.accuracy_images is not None  # those of the result
        bundle = open_bundle(self.folder.bundle(trial.candidate))
        before = {measured.precision: measured for measured in trial.measured}
        measured, failed = self._measured(bundle, before, self.accuracy_images)
        trial = msgspec.structs.replace(trial, measured=measured, failed={**trial.failed, **failed})
        self._keep(trial)
        return trial

    def _measured(
        self, bundle: Bundle, before: Mapping[str, Measured | None], images: AccuracyImages
    ) -> tuple[list[Measured], dict[str, str]]:
        """Time precisions in every backend, and score each in its fastest.

        Args:
            bundle: The calibrated bundle.
            before: What was measured of each precision, whose scores stay if its fastest backend
                does; None of a new one.
            images: What accuracy is measured on.

        Returns:
            What was measured, and why other precisions could not be timed.
        """
        request = self.request
        measured: list[Measured] = []
        failed: dict[str, str] = {}
        for precision, earlier in before.items():
            timings = time_precision(
                bundle,
                precision,
                bundle.golden().images,
                budget_ms=request.budget_ms,
                percentile=request.percentile,
                threads=request.threads,
            )
            quickest, former = fastest_timing(timings), fastest_timing(earlier.timings) if earlier else None
            if quickest is None:
                errors = "; ".join(f"{timing.backend}: {timing.error}" for timing in timings)
                failed[precision] = f"its latency could not be measured: {errors}"
            elif earlier and former and former.backend == quickest.backend:
                measured.append(msgspec.structs.replace(earlier, timings=timings))
            else:
                with detector_of(bundle, quickest.backend, request.threads, precision) as detector:
                    scores, remarks = images.score(detector, request.training.max_bad_images, self.progress)
                measured.append(Measured(precision=precision, timings=timings, scores=scores, remarks=remarks))
        return measured, failed


def was_disturbed(screened: Screened, trial: Trial) -> str:
    """Report a trained FP32 graph that is much slower than the untrained one, or return ``""``.

    Something else kept the machine busy then. Other precisions tell nothing: their gates put layers
    back to FP32.
    """
    before = {timing.backend: timing.p50_ms for timing in screened.timings if timing.precision == "fp32"}
    for measured in trial.measured:
        quickest = fastest_timing(measured.timings) if measured.precision == "fp32" else None
        was = before.get(quickest.backend) if quickest else None
        if quickest and was and (quickest.p50_ms or 0.0) > _BUSY * was:
            return f"{trial.candidate} took {quickest.p50_ms:.2f} ms in {quickest.backend}, {was:.2f} ms when screened"
    return ""


def _int8_stage(run: Run) -> Run | None:
    """Return the finished INT8 stage of a run, or None."""
    with contextlib.suppress(CheckpointError):
        return run.int8()
    return None
