"""Distilling a compact teacher: it learns a pretrained network's features on a product's images.

The compact network learns at each tap of its source, by the distance and the loss of STPM, from ten
variants of each good image (:mod:`kd_train.data.distillation_images`). It is trained like students
are, in a run folder of its own, and can be resumed in the same way. The source itself is in no
checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from kd_export.graph import Combine, Distance, MapSpec, PairSpec, Tap
from kd_export.graph.distance import distance_module
from kd_train.data.distillation_images import VARIANTS, DistillationImages
from kd_train.data.image_set import ImageSet
from kd_train.data.synthetic import KINDS, draw_within
from kd_train.models import compact as compact_networks
from kd_train.models.compact import Head
from kd_train.models.pair import Comparisons, Pair
from kd_train.models.teacher import Renormalise, Teacher, TeacherOptions, build_teacher
from kd_train.recipes import Recipe, compact_teacher_recipe
from kd_train.training.distilled_teacher import COMPACT_TEACHER, DistilledTeacher, Residual
from kd_train.training.gpu_memory import room_on_gpu
from kd_train.training.profile import Profiler
from kd_train.training.run_config import RunConfig, preprocess_of
from kd_train.training.run_folder import Run
from kd_train.training.run_lock import RunLock
from kd_train.training.source_comparison import compare_with_source, one_thread
from kd_train.training.trainer import Trainer
from kdx.errors import OptionError
from kdx.progress import SILENT, Progress
from kdx.storage.files import sha256_bytes
from kdx.storage.json_records import RUN_INDEX

# What the display of progress calls this training.
TASK = "compact teacher"
# The number of held-out images on which the finished teacher is compared with its source.
_MOST_COMPARED = 64


@dataclass(frozen=True)
class Source:
    """The networks from which compact teachers learn.

    Attributes:
        teacher: The networks with their weights.
        weights: A text that says which they are, and where their weights came from.
    """

    teacher: Teacher
    weights: str

    @property
    def heads(self) -> tuple[tuple[Head, ...], ...]:
        """The features that a compact network reproduces, for each group of taps."""
        return tuple(
            tuple(Head(feature.name, feature.channels, feature.stride) for feature in group)
            for group in self.teacher.groups
        )

    @property
    def sha256(self) -> str:
        """One hash of all tensors, in the order of their names."""
        state = self.teacher.state_dict()
        return sha256_bytes(b"".join(state[name].contiguous().numpy().tobytes() for name in sorted(state)))


def open_source(recipe: Recipe, weights: tuple[str, ...] | None) -> Source:
    """Build the networks of ``recipe.teacher_from`` with their weights.

    Raises:
        OptionError: A network or a tap does not exist, or they do not fit the method's groups; or
            one compact network would learn taps of the same name from two networks.
        WeightsError: No weights were found, or they do not fit.
    """
    compact_sources = [name for name in recipe.teacher_from if name in compact_networks.NAMES]
    if compact_sources:
        raise OptionError(
            "a compact network cannot learn from another compact network",
            expected="a pretrained network of timm, e.g. tf_efficientnet_lite0",
            received=", ".join(compact_sources),
            fix="choose another `teacher_from`",
        )
    groups = len(recipe.taps or recipe.strides)
    options = TeacherOptions(recipe.teacher_from, weights, recipe.taps, recipe.strides)
    teacher, text = build_teacher(options, groups, option="`teacher_from`")
    if len(recipe.backbones) == 1 and len(teacher.networks) > 1:
        compact_networks.require_distinct(recipe.backbones[0], [feature.name for feature in teacher.features])
    names = " and ".join(dict.fromkeys(recipe.teacher_from))
    return Source(teacher.requires_grad_(False).eval(), f"distilled from {names}, {text}")


class DistillationPair(Pair):
    """A source as the teacher, and the compact teacher as its student.

    The source's tensors are no part of the pair's state: they are never written.

    Args:
        source: The source; it is frozen.
        compact: The compact teacher, which is copied.
    """

    def __init__(self, source: Teacher, compact: Teacher) -> None:
        # Two networks may have taps of the same name.
        taps = tuple(
            Tap(f"{number}.{feature.name}" if len(compact.groups) > 1 else feature.name, Distance.HALF_SQUARED_L2)
            for number, group in enumerate(compact.groups)
            for feature in group
        )
        spec = PairSpec((MapSpec(taps, Combine.SUM, 0.0),))
        super().__init__(source, spec, tuple(feature.channels for feature in compact.features))
        self.mean, self.std = compact.mean, compact.std
        self.adapt = Renormalise((compact.mean, compact.std), (source.mean, source.std))
        self.compact = copy.deepcopy(compact).requires_grad_(True)
        self.register_state_dict_post_hook(_without_source)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_allow_no_source)  # type: ignore[no-untyped-call]

    def teacher_features(self, x: Tensor) -> list[Tensor]:
        """Return the source's features of images ``(N, 3, H, W)``."""
        return super().teacher_features(self.adapt(x))

    def compare(self, x: Tensor, teacher: list[Tensor]) -> Comparisons:
        """Return each of the source's features with the compact teacher's."""
        return list(zip(teacher, self.compact(x), strict=True))


def _without_source(_module: Any, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}teacher.")]:
        del state[name]


def _allow_no_source(_module: Any, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if not name.startswith("teacher.")]


def distil(
    source: Source,
    compact: Teacher,
    run: Run,
    train: ImageSet,
    held_out: ImageSet,
    further: ImageSet | None,
    parts: Mapping[Path, str],
    *,
    device: torch.device,
    memory_mib: int,
    progress: Progress = SILENT,
    profiler: Profiler | None = None,
) -> DistilledTeacher:
    """Teach a compact teacher the features of its source, in place.

    Args:
        source: The source.
        compact: The compact teacher, with random weights.
        run: The run of this training, see :func:`begin_distillation`; if it has epochs, it is
            resumed.
        train: The good images to learn from.
        held_out: Good images for the comparison afterwards.
        further: Further images to learn from, or None.
        parts: The part that each image shows; an image without an entry is a part of its own.
        device: The device to train on.
        memory_mib: The memory in MiB that the source's cached features may take.
        progress: The progress display.
        profiler: What measures the time of each stage.

    Raises:
        TrainingError: The loss is not finite, or a GPU has too little memory.
    """
    config = run.config
    pair = DistillationPair(source.teacher, compact)
    colour = config.input.channels == 3
    images = DistillationImages(train, further, config.seed, pair.mean, pair.std, colour=colour, memory_mib=memory_mib)
    with room_on_gpu(None):
        trainer = Trainer(
            pair,
            run,
            images,
            held_out,
            device=device,
            memory_mib=memory_mib,
            task=TASK,
            progress=progress,
            profiler=profiler,
            lower_rate="look at the images and at the weights of the source: this learning rate has no option",
        )
        trainer.resume()
        history = trainer.fit()
    pair.cpu().eval()
    compact.load_state_dict(pair.compact.state_dict())
    compact.requires_grad_(False).eval()
    with trainer.profiler.stage("compact teacher: comparison with its source"):
        residuals = _residuals(pair, run, held_out)
        comparisons = compare_with_source(pair, _sources(run, compact), config, train, held_out, parts, progress)
    return DistilledTeacher(
        images=train.different,
        variants=VARIANTS,
        extra_images=len(further) if further else 0,
        epochs=history[-1].epoch,
        loss=history[-1].train_loss,
        residuals=residuals,
        seconds=round(sum(record.seconds for record in history), 3),
        comparisons=comparisons,
    )


def begin_distillation(
    folder: Path, config: RunConfig, source: Source, compact: Teacher, run_lock: RunLock, *, force: bool = False
) -> Run:
    """Return the run folder in which a compact teacher learns, and begin it where there is none.

    Args:
        folder: The folder.
        config: The configuration of the students' run, or one like it.
        source: The source.
        compact: The compact teacher.
        run_lock: The lock of the students' run, which takes that of this folder too.
        force: Whether a run in this folder is replaced.
    """
    if (folder / RUN_INDEX).exists() and not force:
        run_lock.take(folder)
        return Run(folder)
    pair = DistillationPair(source.teacher, compact)
    own = msgspec.structs.replace(
        config,
        method=COMPACT_TEACHER,
        pair_spec=pair.spec,
        recipe=compact_teacher_recipe(config.recipe),
        mean=pair.mean,
        std=pair.std,
        golden=[],
    )
    return Run.create(folder, own, {}, run_lock, force=force)


def _sources(run: Run, compact: Teacher) -> list[tuple[str, list[str]]]:
    """Return the name of the source and of its taps for each group of a compact teacher."""
    names = run.config.recipe.backbones
    names = names * len(compact.groups) if len(names) == 1 else names
    return [(name, [feature.name for feature in group]) for name, group in zip(names, compact.groups, strict=True)]


@one_thread()
@torch.inference_mode()
def _residuals(pair: DistillationPair, run: Run, held_out: ImageSet) -> dict[str, Residual]:
    """Compare a compact teacher with its source on held-out images, good and with defects."""
    config = run.config
    preprocess = preprocess_of(config)
    distances = [distance_module(tap.distance, count) for tap, count in zip(pair.spec.taps, pair.channels, strict=True)]
    chosen = list(range(len(held_out)))[:: max(1, -(-len(held_out) // _MOST_COMPARED))]
    drawers = list(KINDS.values())
    sums = np.zeros((2, len(distances)))
    for number, batch in enumerate(held_out.batches([[index] for index in chosen])):
        image = batch[0].numpy()
        rng = np.random.default_rng((config.seed, number))
        draw = drawers[number % len(drawers)]
        defective, _ = draw_within(draw, image, np.flip(image, 0), rng, config.input)
        for row, pixels in enumerate((image, defective)):
            compared = pair(preprocess(torch.from_numpy(pixels)[None]))
            sums[row] += [float(distance(t, s).mean()) for distance, (t, s) in zip(distances, compared, strict=True)]
    good, defects = sums / len(chosen)
    return {
        tap.name: Residual(round(float(a), 6), round(float(b), 6))
        for tap, a, b in zip(pair.spec.taps, good, defects, strict=True)
    }
