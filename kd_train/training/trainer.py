"""Training a pair: seeded, resumable after any complete epoch, with a validation loss."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import NoReturn

import msgspec
import torch
from msgspec import UNSET
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from kd_train.data.damage import StudentDamage
from kd_train.data.distillation_images import DistillationImages
from kd_train.data.image_set import ImageSet
from kd_train.data.on_device import on_device
from kd_train.models.pair import Comparisons, Pair
from kd_train.recipes import Recipe
from kd_train.training.checkpoints import EpochRecord, Restart
from kd_train.training.feature_cache import FeatureCache, in_order
from kd_train.training.interrupts import Interrupts
from kd_train.training.losses import FeatureMatching
from kd_train.training.optimiser import Schedule, make_optimiser, make_schedule
from kd_train.training.profile import Profiler
from kd_train.training.run_config import preprocess_of
from kd_train.training.run_folder import Run
from kd_train.training.step_losses import StepLosses
from kdx.errors import TrainingError
from kdx.progress import SILENT, Progress

# A killed process loses the current epoch and, if the optimiser's state is larger than this, up to
# ten minutes more.
_SMALL_STATE_BYTES = 32 * 2**20
_RESTART_SECONDS = 600.0
# The share of a GPU's free memory that the teacher's features may take. Steps need the rest.
_FEATURES_SHARE = 0.5


class Trainer:
    """Trains the students of a pair and writes checkpoints to a run folder.

    Args:
        pair: The pair; its students are trained in place.
        run: The run folder.
        train: The images to train on.
        validation: The held-out good images.
        device: The device to train on.
        memory_mib: The memory in MiB that the teacher's cached features of both sets may take,
            beside half of a GPU's own.
        damage: The damage that students see, and the teacher does not; None for none.
        task: What the progress display calls the training.
        progress: The progress display.
        profiler: What measures the time of each stage.
        lower_rate: How the user trains at a lower learning rate; empty: by `learning_rate`.

    Attributes:
        history: The records of all epochs so far.
        resumed_after: The epoch after which :meth:`resume` continues.
        trained_again: The number of later epochs that were complete but cannot be resumed from.
    """

    def __init__(
        self,
        pair: Pair,
        run: Run,
        train: ImageSet | DistillationImages,
        validation: ImageSet,
        *,
        device: torch.device,
        memory_mib: int,
        damage: StudentDamage | None = None,
        task: str = "training",
        progress: Progress = SILENT,
        profiler: Profiler | None = None,
        lower_rate: str = "",
    ) -> None:
        config = run.config
        self.recipe: Recipe = config.recipe
        self.run = run
        self.train_set = train
        self.validation_set = validation
        self.device = device
        self.cache_bytes = memory_mib * 2**20
        self.gpu_bytes = 0
        self.damage = damage
        self.task = task
        self.progress = progress
        self.profiler = profiler or Profiler()
        self.lower_rate = lower_rate or f"train with a lower `learning_rate` than {self.recipe.learning_rate:g}"
        # The INT8 stage goes on where the FP32 students stopped: it draws no order or damage again.
        self.epochs_before = 0 if config.quantized is UNSET else config.quantized.epoch
        # channels_last halves the time of a CPU training step of depthwise networks, and suits
        # tensor cores.
        self.pair: Pair = pair.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = FeatureMatching(config.pair_spec, pair.channels).to(device)
        self.preprocess = preprocess_of(config).to(device)
        self.parameters = {n: p for n, p in pair.named_parameters() if not n.startswith("teacher.")}
        self.optimiser = make_optimiser(self.recipe, list(self.parameters.values()))
        self.schedule: Schedule | None = None
        self.history: list[EpochRecord] = []
        self.resumed_after = self.trained_again = 0
        self.interrupts = Interrupts()
        self.saved_at = time.monotonic()
        self.unsaved: tuple[int, dict[str, Tensor]] | None = None  # an epoch, and the optimiser's state to be written

    def resume(self) -> None:
        """Load the epoch from which the run resumes.

        See :attr:`kd_train.training.checkpoints.Checkpoint.restart`.

        Raises:
            CheckpointError: A file is missing or was altered.
        """
        is_begun = (self.run.path / "last.json").exists()
        last = self.run.checkpoint("last") if is_begun else None
        restart = last.resumes_at if last else Restart()
        # The teacher is the one that the run began with, also if no epoch is complete.
        self.pair.load_state_dict(self.run.tensors(restart), strict=restart.epoch > 0)
        state = {}
        if restart.epoch > self.run.config.cycle_start:  # a new cycle begins without a state
            state = self.run.checkpoints.read(restart.optimiser, restart.optimiser_sha256)
        for name, parameter in self.parameters.items():
            slots = {key.rpartition("/")[2]: value for key, value in state.items() if key.rpartition("/")[0] == name}
            if slots:
                self.optimiser.state[parameter] = {
                    slot: value.to(self.device) if value.ndim else value for slot, value in slots.items()
                }
        self.history = list(last.history[: restart.epoch]) if last else []
        if last:
            self.run.checkpoints.clean()
        self.resumed_after, self.trained_again = restart.epoch, (last.epoch if last else 0) - restart.epoch

    def fit(self) -> list[EpochRecord]:
        """Train up to the recipe's number of epochs and return the history.

        After any interruption, including Ctrl-C and SIGTERM, training can resume after the last
        complete epoch.

        Raises:
            TrainingError: The loss is no longer finite. The checkpoint of the last complete epoch
                is kept.
        """
        with self.interrupts:
            try:
                self._fit()
            except BaseException:
                # A full disk may have ended it between an epoch's students and its record.
                if self.unsaved is not None and self.run.checkpoint("last").epoch == self.unsaved[0]:
                    self.run.checkpoints.save_optimiser(self.unsaved[1])
                raise
        return self.history

    def _fit(self) -> None:
        if teacher := self._tensors(teacher=True):  # none of a source, which a run does not keep
            self.run.keep_teacher(teacher)
        is_finished = len(self.history) == self.recipe.epochs
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # an earlier training in this process left memory that counts as used
            self.gpu_bytes = int(_FEATURES_SHARE * torch.cuda.mem_get_info(self.device)[0])
        with self.profiler.stage(f"{self.task}: teacher's features"):
            cached = [] if is_finished else [self._cache_teacher(images, name) for images, name in self._sets()]
        steps = len(self._shuffled(0))
        before = self.run.config.cycle_start
        cycle = msgspec.structs.replace(self.recipe, epochs=self.recipe.epochs - before)
        self.schedule = make_schedule(cycle, self.optimiser, self.history[before:], steps)
        self.saved_at = time.monotonic()
        missing = self.recipe.epochs - len(self.history)
        with (
            self.progress.task(self.task, missing * steps) as task,
            self.profiler.epochs(self.task, missing, len(self.train_set)),
        ):
            for epoch in range(len(self.history) + 1, self.recipe.epochs + 1):
                started = time.perf_counter()
                batches = self._shuffled(epoch)
                losses = StepLosses([len(batch) for batch in batches], self.device)
                for loss in self._train_epoch(epoch, batches, cached[0]):
                    with self.profiler.stage("optimiser"):  # waits for a GPU from time to time
                        losses.add(loss)
                    said = "" if losses.latest is None else f"  loss {losses.latest:.4f}"
                    task.advance(1, f"epoch {epoch}/{self.recipe.epochs}{said}")
                    self.interrupts.check()
                    if losses.failed:
                        step, value = losses.failed
                        is_first = epoch == 1 and step == 0
                        self._not_finite(f"the loss became {value} in epoch {epoch}, step {step + 1}", is_first)
                train_loss = losses.mean()
                with self.profiler.stage("validation"):
                    validation_loss = self._validation_loss(cached[1])
                if not math.isfinite(validation_loss):
                    self._not_finite(f"the held-out loss became {validation_loss} after epoch {epoch}")
                if isinstance(self.schedule, ReduceLROnPlateau):
                    self.schedule.step(validation_loss)
                best = all(validation_loss < record.validation_loss for record in self.history)
                seconds = time.perf_counter() - started
                with self.interrupts.delayed(), self.profiler.stage("checkpoint"):
                    self.history.append(EpochRecord(epoch, train_loss, validation_loss, round(seconds, 3)))
                    self._save(best=best)

    def _sets(self) -> list[tuple[ImageSet | DistillationImages, str]]:
        return [(self.train_set, "training"), (self.validation_set, "held-out")]

    def _train_epoch(self, epoch: int, batches: list[list[int]], cache: FeatureCache | None) -> Iterator[Tensor]:
        """Run an epoch; yield each step's loss, which nothing has waited for yet."""
        self.pair.train()
        stage = self.profiler.stage
        for indices, x in self._inputs(self.train_set, batches, None if self.damage else cache):
            with torch.no_grad():
                with stage("teacher"):
                    teacher = self._teacher_features(x, indices, cache)
                with stage("damage"):
                    seen = x if self.damage is None else self.damage(x, indices, self.epochs_before + epoch)
            with stage("student forward"):
                loss = self.loss(self._compared(seen, teacher, is_damaged=seen is not x))
            with stage("student backward"):
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
            with stage("optimiser"):
                self.optimiser.step()
                if isinstance(self.schedule, OneCycleLR):
                    self.schedule.step()
            yield loss

    def _compared(self, x: Tensor, teacher: list[Tensor], *, is_damaged: bool) -> Comparisons:
        """Return the features that the loss compares, in FP32 whatever the students computed in."""
        compare = self.pair.compare_damaged if is_damaged else self.pair.compare_training
        mixed = torch.autocast(self.device.type, torch.bfloat16) if self.recipe.mixed_precision else nullcontext()
        with mixed:
            compared = compare(x, teacher)
        return [(t.float(), s.float()) for t, s in compared]

    @torch.inference_mode()
    def _validation_loss(self, cache: FeatureCache | None) -> float:
        """Return the mean loss on held-out images, without BF16: students are deployed in FP32."""
        self.pair.eval()
        batches = in_order(len(self.validation_set), self.recipe.batch_size)
        losses = [
            self.loss(self.pair.compare_training(x, self._teacher_features(x, indices, cache)))
            for indices, x in self._inputs(self.validation_set, batches, cache)
        ]
        total = sum(loss * len(batch) for loss, batch in zip(torch.stack(losses).tolist(), batches, strict=True))
        return float(total / len(self.validation_set))

    def _inputs(
        self, images: ImageSet | DistillationImages, batches: list[list[int]], cache: FeatureCache | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield each batch's indices and input, which is empty if the cache is enough."""
        if cache is not None and not self.pair.sees_image:
            yield from ((indices, torch.empty(0)) for indices in batches)
            return
        source, stage = images.batches(batches), self.profiler.stage
        for indices in batches:
            with stage("images"):
                batch = next(source)
            with stage("preprocessing"):
                x = self.preprocess(on_device(batch, self.device))
            with stage("damage"):
                x = images.vary(x, indices).contiguous(memory_format=torch.channels_last)
            yield indices, x

    def _teacher_features(self, x: Tensor, indices: list[int], cache: FeatureCache | None) -> list[Tensor]:
        if cache is None:
            return self.pair.teacher_features(x)
        # Copied to the device first: there, to change the layout takes no time.
        found = [on_device(feature, self.device) for feature in cache[indices]]
        return [feature.contiguous(memory_format=torch.channels_last) for feature in found]

    @torch.no_grad()
    def _cache_teacher(self, images: ImageSet | DistillationImages, name: str) -> FeatureCache | None:
        """Compute the teacher's features of every image, or return None if they do not fit."""
        if not len(images):
            return None
        features: list[Tensor] | None = None
        batches = in_order(len(images), self.recipe.batch_size)
        with self.progress.task(f"teacher's features ({name})", len(images)) as task:
            for indices, x in self._inputs(images, batches):
                batch = self.pair.teacher_features(x)
                if features is None:
                    features = self._allocate(batch, len(images))
                    if features is None:
                        return None
                for stored, feature in zip(features, batch, strict=True):
                    stored[indices[0] : indices[-1] + 1] = feature
                task.advance(len(indices))
        return None if features is None else FeatureCache(features)

    def _allocate(self, batch: list[Tensor], count: int) -> list[Tensor] | None:
        """Return memory for features like these of so many images, or None if there is no room."""
        needed = sum(feature[0].numel() for feature in batch) * 4 * count
        while (device := self._room_for(needed)) is not None:
            try:
                return [torch.empty(count, *feature.shape[1:], device=device) for feature in batch]
            except torch.OutOfMemoryError:  # it is free in pieces, or another process took it
                self.gpu_bytes = 0
        return None

    def _room_for(self, needed: int) -> torch.device | None:
        """Return where so many bytes of features are kept: on a GPU, in memory, or nowhere."""
        if self.device.type == "cuda" and needed <= self.gpu_bytes:
            self.gpu_bytes -= needed
            return self.device
        if needed > self.cache_bytes:
            return None
        self.cache_bytes -= needed
        return torch.device("cpu")

    def _shuffled(self, epoch: int) -> list[list[int]]:
        """Return an epoch's batches of indices, which depend on seed and epoch alone."""
        generator = torch.Generator().manual_seed(self.run.config.seed * 1_000_003 + self.epochs_before + epoch)
        order = torch.randperm(len(self.train_set), generator=generator).tolist()
        size = self.recipe.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        # Batch normalisation cannot train on a batch of one image.
        return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches

    def _not_finite(self, found: str, is_first: bool = False) -> NoReturn:
        kept = f"the checkpoint of epoch {len(self.history)} is kept" if self.history else "nothing was saved yet"
        raise TrainingError(
            f"{found}; {kept}",
            fix="no weight was changed yet: look at the images and at the weights of the teacher"
            if is_first
            else self.lower_rate,
        )

    def _save(self, *, best: bool) -> None:
        """Write the epoch's students, and the optimiser's state if it is due; otherwise keep it.

        The state of the epoch before is kept until then: training resumes there if this one cannot
        be written.
        """
        state = {
            # Copied, because the next epoch's steps change the optimiser's tensors.
            f"{name}/{slot}": value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, parameter in self.parameters.items()
            for slot, value in self.optimiser.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
        is_due = self._is_due(state)
        self.run.save(self._tensors(teacher=False), state if is_due else None, self.history, best=best)
        self.unsaved = None if is_due else (len(self.history), state)
        if is_due:
            self.saved_at = time.monotonic()

    def _is_due(self, state: dict[str, Tensor]) -> bool:
        """Return whether the optimiser's state is written now."""
        return (
            sum(value.nbytes for value in state.values()) <= _SMALL_STATE_BYTES
            or len(self.history) == self.recipe.epochs
            or time.monotonic() - self.saved_at >= _RESTART_SECONDS
        )

    def _tensors(self, *, teacher: bool) -> dict[str, Tensor]:
        """Return the tensors by name, the teacher's or all others; networks keep timm's names."""
        return {
            name: value.detach().cpu().contiguous()
            for name, value in self.pair.state_dict().items()
            if name.startswith("teacher.") == teacher
        }
