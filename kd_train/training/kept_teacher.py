"""A compact teacher that exists: that of another run, or that of the run which is resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import UNSET
from torch import Tensor

from kd_train.models.compact import Head
from kd_train.models.pair import Pair
from kd_train.training.run_config import RunConfig
from kd_train.training.run_folder import Run
from kd_train.training.trained_pair import teacher_tensors
from kdx.errors import CheckpointError, OptionError
from kdx.imaging.image_identity import Identity
from kdx.imaging.image_size import say_size, size_of
from kdx.remarks import Remark, remark


class KeptTeacher:
    """The compact teacher of another run, or one that ``kdx distil`` made.

    Args:
        path: The folder.
        taps: The names of the taps to use, for each group; empty for all of the teacher's.

    Raises:
        CheckpointError: It is no run folder, or its teacher is not finished.
        OptionError: Its teacher is not compact, or has none of the taps.

    Attributes:
        path: The folder.
        config: The configuration of that run.
        heads: The features of the teacher that are used, for each group.
        weights: A text that says where the teacher's weights came from.
        sha256: The hash of the teacher's tensors.
        learnt: The hashes of all images from which it learnt.
    """

    def __init__(self, path: Path, taps: Sequence[Sequence[str]] = ()) -> None:
        self.path = path
        self._run = Run(path)
        self.config = self._run.config
        if not self.config.recipe.teacher_from:
            raise OptionError(
                f"the teacher of '{path}' is not a compact one",
                expected="a run with a compact teacher, or a folder of kdx distil",
                received=self.config.backbone,
            )
        if self.config.quantized is not UNSET:
            raise OptionError(
                f"the teacher of '{path}' is INT8",
                expected="a run with a compact teacher in FP32",
                fix=f"name the run folder around it, '{path.parent}'",
            )
        if not self.config.teacher:
            raise CheckpointError(f"the compact teacher of '{path}' is not finished", fix=self._run.how_to_continue)
        self.heads = _chosen(path, self.config.recipe.heads, taps)
        self.weights = self.config.weights
        self.sha256 = self.config.teacher_sha256
        self.learnt = _learnt(self.config)

    def fill(self, pair: Pair) -> dict[str, Tensor]:
        """Fill the teacher of a pair, which has these heads, and return its tensors by name.

        Raises:
            CheckpointError: The file of tensors is missing or was altered.
        """
        tensors = self._run.checkpoints.read(self.config.teacher, self.config.teacher_sha256)
        wanted = teacher_tensors(pair)
        pair.load_state_dict({name: tensors[name] for name in wanted}, strict=False)
        return teacher_tensors(pair)


class FinishedTeacher:
    """The compact teacher of a run that is resumed in its second stage: nothing is opened for it.

    Args:
        begun: The configuration of the run, whose teacher is finished.

    Attributes:
        heads: The features of the teacher, for each group.
        weights: A text that says where the teacher's weights came from.
        sha256: The hash of what it was made from.
        extra_sha256: The hash of the further images from which it learnt.
        learnt: The hashes of all images from which it learnt.
    """

    def __init__(self, begun: RunConfig) -> None:
        self.heads = begun.recipe.heads
        self.weights = begun.weights
        self.sha256, self.extra_sha256 = begun.source_sha256, begun.extra_sha256
        self.learnt = _learnt(begun)


def learnt_otherwise(teacher: KeptTeacher, config: RunConfig) -> list[Remark]:
    """Return a remark where a teacher learnt from images that were brought to another size or form.

    Args:
        teacher: The teacher.
        config: The configuration of the run that uses it.
    """
    theirs, ours = _seen(teacher.config), _seen(config)
    names = [f"`{name}` {theirs[name]}, here {ours[name]}" for name in ours if theirs[name] != ours[name]]
    text = (
        f"[setting|settings] of the images [differs|differ] from [that|those] with which the teacher of "
        f"'{teacher.path}' learnt, so its features may tell less; make one with [this|these]: kdx distil"
    )
    return remark("teacher_of_other_images", text, names)


def _seen(config: RunConfig) -> dict[str, str]:
    """Return what decides how the networks see images, by option."""
    resize_to, crop = config.recipe.resize_to, config.input.crop
    return {
        "image_size": say_size(config.recipe.image_size),
        "crop_from": say_size(size_of(resize_to)) if resize_to else "0",
        "channels": str(config.input.channels),
        "crop": "none" if crop is UNSET else ",".join(map(str, crop)),
    }


def _learnt(config: RunConfig) -> list[Identity]:
    """Return the hashes of the images from which the compact teacher of a run learnt."""
    return list(config.known_images().images) if config.teacher_learnt is None else config.teacher_learnt


def _chosen(
    path: Path, heads: tuple[tuple[Head, ...], ...], taps: Sequence[Sequence[str]]
) -> tuple[tuple[Head, ...], ...]:
    """Return the heads at some taps."""
    if not taps:
        return heads
    if len(taps) != len(heads):
        raise OptionError(
            f"`taps` does not fit the teacher of '{path}'",
            expected="/".join(",".join(head.tap for head in group) for group in heads),
            received="/".join(",".join(group) for group in taps),
        )
    for group, names in zip(heads, taps, strict=True):
        missing = [name for name in names if name not in {head.tap for head in group}]
        if missing:
            raise OptionError(
                f"the teacher of '{path}' has no tap '{missing[0]}'",
                expected=f"some of {', '.join(head.tap for head in group)}",
            )
    return tuple(tuple(head for head in group if head.tap in names) for group, names in zip(heads, taps, strict=True))
