"""What the options of a training ask for: their checks, the recipe, and the untrained pair."""

from __future__ import annotations

import random
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import UNSET

from kd_train.data.image_set import ImageSet
from kd_train.data.parts import require_one_source
from kd_train.methods import find_method
from kd_train.models import compact
from kd_train.models.network_names import require_network
from kd_train.models.pair import Pair
from kd_train.models.teacher import Teacher, is_compact
from kd_train.recipes import Recipe, load_recipe
from kd_train.training.distillation import Source, open_source
from kd_train.training.kept_teacher import FinishedTeacher, KeptTeacher
from kd_train.training.options import TrainOptions, check_limits
from kd_train.training.run_config import NEWEST_SCHEMA, SCHEMA, RunConfig, current_versions
from kd_train.training.run_folder import Run
from kd_train.training.training_images import TrainingImages
from kdx.errors import CheckpointError, OptionError
from kdx.imaging.image_identity import Identity
from kdx.imaging.image_size import ImageSize, require_size, say_size
from kdx.storage.files import hash_of_hashes
from kdx.storage.json_records import RUN_INDEX, now


def recipe_of(options: TrainOptions, kept: KeptTeacher | None = None) -> Recipe:
    """Return the method's recipe with the user's options.

    Args:
        options: The options.
        kept: The teacher that they name, see :func:`kept_teacher`; None to read it here.

    Raises:
        CheckpointError: ``teacher_from`` is a folder, but not one with a finished teacher.
        OptionError: The method is unknown, or a value is invalid.
    """
    return load_recipe(find_method(options.method), overrides(options, kept))


def build_pair(options: TrainOptions, recipe: Recipe) -> tuple[Pair, str]:
    """Build the untrained pair; the second result says where the teacher's weights came from.

    Raises:
        OptionError: The backbone or the taps are invalid, or do not fit the size of the images.
        WeightsError: The teacher's weights could not be found or do not fit.
    """
    seed_everything(options.seed)
    method = find_method(options.method)
    if recipe.teacher_from and not recipe.heads:
        recipe = msgspec.structs.replace(recipe, heads=open_source(recipe, None).heads)
        seed_everything(options.seed)
    pair, weights = method.build(recipe.pair_options(method, split_names(options.weights)))
    _require_whole_positions(recipe, pair)
    return pair, weights


def _require_whole_positions(recipe: Recipe, pair: Pair) -> None:
    """Check that a size of two sides is divided by the strides of the taps.

    Where a stride does not divide a side, the last position lies partly outside of the image, and
    the map is stretched by a few pixels. Squares of any side were always accepted.
    """
    assert isinstance(pair.teacher, Teacher)
    deepest = max(pair.teacher.features, key=lambda feature: feature.stride)
    height, width = recipe.size
    if height != width and (height % deepest.stride or width % deepest.stride):
        fitting = [max(1, round(side / deepest.stride)) * deepest.stride for side in recipe.size]
        raise OptionError(
            "the strides of the taps do not divide `image_size`",
            expected=f"multiples of {deepest.stride}, the stride of {deepest.name}, e.g. {fitting[0]}x{fitting[1]}",
            received=say_size(recipe.image_size),
            fix="choose another `image_size`, or `taps` that are less deep",
        )


def source_of(
    options: TrainOptions, recipe: Recipe, kept: KeptTeacher | None = None, begun: RunConfig | None = None
) -> Source | KeptTeacher | FinishedTeacher | None:
    """Return where the compact teacher comes from, or None for another teacher.

    Args:
        options: The options.
        recipe: The recipe.
        kept: The teacher that exists in another run, or None.
        begun: The configuration of the run that is resumed, or None.

    Raises:
        OptionError: A network or a tap does not exist.
        WeightsError: No weights were found, or they do not fit.
    """
    if not recipe.teacher_from or kept is not None:
        return kept
    if begun is not None and begun.distilled is not None:
        return FinishedTeacher(begun)
    seed_everything(options.seed)  # random weights of a source too
    return open_source(recipe, split_names(options.weights))


def kept_teacher(options: TrainOptions) -> KeptTeacher | None:
    """Return the teacher that exists in another run, or None if there is none to use.

    Raises:
        CheckpointError: ``teacher_from`` is a folder, but not one with a finished teacher.
        OptionError: That teacher is not compact, or has none of the taps.
    """
    folder = kept_folder(options)
    return None if folder is None else KeptTeacher(folder, _taps(options) or ())


def kept_folder(options: TrainOptions) -> Path | None:
    """Return the folder of a teacher that exists, or None if the teacher is to be distilled.

    A compact teacher is taken over with the students of ``init``: one that learns again would be
    another one.

    Raises:
        CheckpointError: ``teacher_from`` is a path, but not that of a run folder.
        OptionError: It names several, and one of them is a folder; or a network does not exist.
    """
    if options.teacher_from is None and options.init is not None and Run(options.init).config.recipe.teacher_from:
        return options.init
    text = options.teacher_from or ""
    if text and (Path(text) / RUN_INDEX).exists():
        return Path(text)
    names = split_names(text)
    if len(names) > 1 and any(is_path(name) or (Path(name) / RUN_INDEX).exists() for name in names):
        raise OptionError(
            "the teachers of several runs cannot be combined",
            expected="one run folder with a compact teacher, or names of networks with commas as `teacher_from`",
            received=text,
        )
    if is_path(text):
        backbone = options.backbone if is_compact(split_names(options.backbone or "")) else compact.DEFAULT
        raise CheckpointError(
            f"there is no run folder '{text}'",
            expected="a run folder with a compact teacher, or the name of a network as `teacher_from`",
            fix=f"make one: kdx distil DATA --backbone {backbone} --out {shlex.quote(text)}",
        )
    for name in names:
        if not is_compact((name,)):  # that it cannot be learnt from is said elsewhere
            require_network(name, f", and there is no run folder '{name}'")
    return None


def is_path(text: str) -> bool:
    """Whether a text is a path of several parts, and no name of a network."""
    return len(Path(text).parts) > 1 and not text.startswith(("hf-hub:", "hf_hub:"))


def common_config(
    data: str, options: TrainOptions, recipe: Recipe, images: TrainingImages, learnt: Sequence[Identity] = ()
) -> dict[str, Any]:
    """Return the fields of a run's configuration that come from images and options alone.

    Args:
        data: The data folder, absolute; empty for a teacher of several products.
        options: The options.
        recipe: The recipe.
        images: The images.
        learnt: The hashes of images that initial students learnt from.
    """
    trained = [record.identity for record in images.trained]
    known = set(trained)
    return {
        "schema": NEWEST_SCHEMA if _needs_newest(options, images) else SCHEMA,
        "recipe": recipe,
        "input": images.spec,
        "tile": options.tile,
        "frame": images.frame if options.tile else None,
        "seed": options.seed,
        "data": data,
        "dataset": images.folder.dataset,
        "category": images.folder.category,
        "subfolders": options.subfolders,
        "good_folders": options.good_folders,
        "odd_images": options.odd_images,
        "train_images": images.hashes(images.trained),
        "validation_images": images.hashes(images.held_out),
        "trained_on": [*trained, *(each for each in learnt if each not in known)],
        **({"left_out": [record.identity for record in images.left_out]} if images.left_out else {}),
        "data_sha256": hash_of_hashes(record.sha256 for record in images.trained),
        **({} if options.precision == "fp32" else {"precision": options.precision}),
        "versions": dict(current_versions()),
        "created": now(),
    }


def _needs_newest(options: TrainOptions, images: TrainingImages) -> bool:
    """Whether earlier versions would resume or export the run in another way."""
    return images.spec.crop is not UNSET or options.init is not None or options.mixed_precision


def teacher_config(
    source: Source | KeptTeacher | FinishedTeacher | None, images: TrainingImages, further: ImageSet | None
) -> dict[str, Any]:
    """Return the fields of a run's configuration that say where its compact teacher comes from."""
    if isinstance(source, (KeptTeacher, FinishedTeacher)):
        extra = source.extra_sha256 if isinstance(source, FinishedTeacher) else ""
        return {"source_sha256": source.sha256, "extra_sha256": extra, "teacher_learnt": source.learnt}
    if source is None or further is None:
        return {"source_sha256": source.sha256 if source else ""}
    return {
        "source_sha256": source.sha256,
        "extra_sha256": hash_of_hashes(record.sha256 for record in further.records),
        "teacher_learnt": [record.identity for record in (*images.trained, *further.records)],
    }


def overrides(options: TrainOptions, kept: KeptTeacher | None = None) -> dict[str, object]:
    """Return the recipe's fields that the user gave; see :func:`recipe_of`."""
    return {
        **_teacher(options, kept),
        "epochs": options.epochs,
        # Tiles are neither resized nor cropped: a crop would leave gaps in the frame's map.
        "image_size": _image_size(options),
        "crop_from": 0 if options.tile and options.crop_from is None else options.crop_from,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "damage": options.damage,
        "border_weights": _border_weights(options),
        "mixed_precision": options.mixed_precision or None,
        "blur_sigma": options.blur_sigma,
        "combine": options.combine,
        "score": options.score,
        "validation_fraction": options.validation_fraction,
        "options": dict(options.method_options),
    }


def _image_size(options: TrainOptions) -> ImageSize | None:
    """Return the networks' size; None for the recipe's."""
    if options.tile is None or options.image_size is None:
        return options.tile if options.image_size is None else options.image_size
    size = require_size("image_size", options.image_size)
    if not isinstance(size, int):
        raise OptionError(
            "tiles are squares, and so is what the networks see of them",
            expected="the side of a square as `image_size`",
            received=say_size(size),
            fix="leave out `image_size`, or `tile`",
        )
    return size


def _border_weights(options: TrainOptions) -> bool | None:
    """Return whether maps get border weights; None for the recipe's choice."""
    if options.tile is None:
        return None if options.border_weights is None else options.border_weights == "on"
    if options.border_weights == "on":
        raise OptionError(
            "`border_weights` are of whole images: where tiles meet, their borders are not used",
            fix="leave out `border_weights`, or `tile`",
        )
    return False


def _teacher(options: TrainOptions, kept: KeptTeacher | None) -> dict[str, object]:
    """Return the fields that describe the teacher; those of one that exists are its own."""
    backbones = None if options.backbone is None else _names("backbone", options.backbone)
    taps = _taps(options)
    sources = None if options.teacher_from is None else _names("teacher_from", options.teacher_from)
    kept = kept or kept_teacher(options)
    if kept is None:
        epochs = options.teacher_epochs
        return {"backbones": backbones, "taps": taps, "teacher_from": sources, "teacher_epochs": epochs}
    folder, theirs = kept.path, kept.config.recipe
    refused = [name for name in ("teacher_epochs", "extra_images") if getattr(options, name) not in (None, ())]
    refused += ["weights"] if options.weights != "imagenet" else []
    if refused:
        raise OptionError(
            f"the teacher of '{folder}' has learnt already", received=f"`{refused[0]}`", fix=f"leave out `{refused[0]}`"
        )
    if backbones not in (None, theirs.backbones):
        raise OptionError(
            f"the teacher of '{folder}' is another network",
            expected=", ".join(theirs.backbones),
            received=options.backbone or "",
            fix="leave out `backbone`",
        )
    return {
        "backbones": theirs.backbones,
        "taps": tuple(tuple(head.tap for head in group) for group in kept.heads),
        "teacher_from": theirs.teacher_from,
        "teacher_epochs": theirs.teacher_epochs,
    }


def _taps(options: TrainOptions) -> tuple[tuple[str, ...], ...] | None:
    return None if options.taps is None else tuple(_names("taps", group) for group in options.taps.split("/"))


def _names(option: str, text: str) -> tuple[str, ...]:
    """Return the names in an option's text.

    Raises:
        OptionError: There are none.
    """
    names = split_names(text)
    if not names:
        raise OptionError(
            f"`{option}` names nothing", expected="names, separated by commas", received=repr(text), fix="leave it out"
        )
    return names


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in a text, which are separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def check_options(options: TrainOptions) -> None:
    """Check what no recipe decides.

    Raises:
        OptionError: A value is out of range, or two options exclude each other.
    """
    check_limits(options)
    if options.resume and options.force:
        raise OptionError(
            "`resume` and `force` exclude each other",
            fix="give `resume` to continue the run, or `force` to replace it",
        )
    if options.crop is not None and options.tile is not None:
        raise OptionError("`crop` and `tile` exclude each other", fix="leave out one: tiles cover whole frames")
    if not 0 < options.train_fraction <= 1:
        raise OptionError(
            "`train_fraction` is out of range", expected="above 0, up to 1", received=f"{options.train_fraction:g}"
        )
    require_one_source(options.group_by, options.parts)
    if options.extra_images and not kept_folder(options) and not is_compact(split_names(options.backbone or "")):
        raise OptionError(
            "`extra_images` is an option of compact teachers",
            expected=f"`backbone` {', '.join(compact.NAMES)}",
            received=options.backbone or "the recipe's backbone",
        )
    low, high = options.sixteen_bit_range
    if not 0 <= low < high <= 65535:
        raise OptionError("invalid `sixteen_bit_range`", expected="LOW:HIGH within 0:65535", received=f"{low}:{high}")


def seed_everything(seed: int) -> None:
    """Seed every generator from which weights are drawn."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
