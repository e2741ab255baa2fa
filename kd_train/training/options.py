"""The options of training: one table for Python, the command line and catalogues.

A field of :class:`TrainOptions` declares an option whole: name, type and default as in every
dataclass, and help, limits and commands in its :class:`Option`. ``kdx train``, ``distil``,
``quantize``, ``fit`` and ``reproduce`` make their options of the fields
(``kdx/cli/train_options.py``), ``kdx train-many`` its keys (``kdx/workflows/many/catalog.py``), and
results are recorded with the options that decide them. A new option is a new field here, and the
code that uses it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kdx.errors import OptionError
from kdx.folders.data_folder import FolderOptions
from kdx.imaging.field_of_view import Crop
from kdx.imaging.image_size import ImageSize

_SIZE = "SIDE|HxW"
_ALL = frozenset({"train", "fit", "reproduce", "distil"})
_TRAIN_AND_FIT = frozenset({"train", "fit", "distil"})
_STUDENTS = _ALL - {"distil"}
_TRAIN_AND_DISTIL = frozenset({"train", "distil"})
_TRAIN_AND_REPRODUCE = frozenset({"train", "reproduce"})
_QUANTIZE = frozenset({"quantize"})


@dataclass(frozen=True)
class Option:
    """What an option of training is beside its name, type and default.

    Attributes:
        help: What it does, for ``--help`` and the reference.
        flag: Its flag without dashes; empty: its name with dashes.
        key: Its key in a catalogue; empty: its name; None: a catalogue has none.
        metavar: What stands for its value in ``--help``; None: its type.
        limits: The least and the largest value, checked wherever it comes from.
        shell_limits: Limits that the command line checks itself; None: no limit.
        decides: Whether it decides what a training results in, and not only where and how fast it
            runs.
        commands: The commands that offer it.
        key_type: Its type in a catalogue, where that is another.
    """

    help: str
    flag: str = ""
    key: str | None = ""
    metavar: str | None = None
    limits: tuple[int, int] | None = None
    shell_limits: tuple[int | None, int | None] = (None, None)
    decides: bool = True
    commands: Collection[str] = frozenset({"train"})
    key_type: Any = None


def _option(default: Any, help: str, **more: Any) -> Any:  # noqa: A002  # as typer calls it
    return field(default=default, metadata={"option": Option(help, **more)})


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The options of a training, explained by their help; None leaves the recipe's value.

    Attributes:
        method_options: Values of the method's own options, by name.
    """

    method: str = _option(
        "stpm",
        "Method: see kdx methods, which lists each one's own options too.",
        commands=_TRAIN_AND_DISTIL,
    )
    category: str | None = _option(None, "Category of a data set that has several.", commands=_TRAIN_AND_FIT)
    subfolders: bool = _option(
        False,
        "Take images in subfolders too: of a folder of good images, all of them are good.",
        commands=_TRAIN_AND_FIT,
    )
    good_folders: tuple[str, ...] = _option(
        (),
        "A folder whose images are good, beside the usual names (good, ok, pass, normal and others, in any case); may "
        "be repeated.",
        flag="good-folder",
        metavar="NAME",
        commands=_TRAIN_AND_FIT,
    )
    method_options: Mapping[str, str] = field(default_factory=dict)
    backbone: str | None = _option(
        None,
        "The teacher: any convolutional backbone of timm, by its name, or a compact network that learns from one: "
        "compact-s, compact-m or compact-l; two as A,B. Default: the paper's; compact-m where a teacher alone is made.",
        commands=_ALL,
    )
    teacher_from: str | None = _option(
        None,
        "The backbone of timm from which a compact network learns, for this product; two as A,B. Default: "
        "tf_efficientnet_lite0. Or a run folder whose compact teacher is used as it is.",
        metavar="BACKBONE",
        commands=_TRAIN_AND_DISTIL,
    )
    teacher_epochs: int | None = _option(
        None,
        "Passes over the images in which a compact network learns to be the teacher. Default: the recipe's.",
        commands=_TRAIN_AND_DISTIL,
    )
    extra_images: tuple[str, ...] = _option(
        (),
        "A folder of further images, of anything, from which a compact network learns too; may be repeated.",
        metavar="FOLDER",
        commands=_TRAIN_AND_DISTIL,
    )
    weights: str = _option(
        "imagenet",
        "The weights of the teacher, or of the backbone that a compact one learns from: imagenet, random, or a "
        ".safetensors/.pth file; for two teachers A,B.",
        commands=_ALL,
    )
    init: Path | None = _option(  # noqa: RUF009  # a field
        None,
        "A finished run whose students this training starts from, e.g. for new good images; method and networks must "
        "be the same, and a compact teacher is taken over with them.",
        metavar="RUN",
    )
    resume: bool = _option(
        False,
        "Continue an interrupted run. With more --epochs than it has, a finished run of kdx train is extended by a "
        "new cycle from its last weights.",
        key=None,
        decides=False,
        commands=_TRAIN_AND_DISTIL | _QUANTIZE,
    )
    force: bool = _option(
        False, "Replace the output if it exists.", key=None, decides=False, commands=_TRAIN_AND_DISTIL | _QUANTIZE
    )
    profile: bool = _option(
        False,
        "Show where the time went, stage by stage, and write it to profile.json in the run folder.",
        key=None,
        decides=False,
    )
    precision: Literal["fp32", "int8"] = _option(
        "fp32",
        "fp32, or int8: the students then learn a second time, as INT8 networks from the quantised teacher, as by kdx "
        "quantize with its defaults.",
    )
    epochs: int | None = _option(
        None,
        "Passes over the training images. Default: the recipe's; of kdx quantize 8.",
        commands=_STUDENTS | _QUANTIZE,
    )
    image_size: ImageSize | None = _option(  # noqa: RUF009  # a field
        None,
        "Size at which the networks run, in pixels: the side of a square, or HEIGHTxWIDTH, e.g. 256x1024.",
        metavar=_SIZE,
        commands=_TRAIN_AND_REPRODUCE | {"distil"},
    )
    crop_from: ImageSize | None = _option(  # noqa: RUF009  # a field
        None,
        "Size to which images are brought before --image-size is cut from their centre; 0 for no crop.",
        metavar=_SIZE,
        commands=_TRAIN_AND_DISTIL,
    )
    crop: Crop | None = _option(  # noqa: RUF009  # a field
        None,
        "Window of the camera's frames that the networks see, in pixels; the images must be whole frames of one size.",
        metavar="X,Y,WIDTH,HEIGHT",
        commands=_TRAIN_AND_FIT,
    )
    tile: int | None = _option(
        None,
        "Train on squares of this side that are cut from large images. --image-size, if not given, is the same.",
        limits=(32, 4096),
        commands=_TRAIN_AND_DISTIL,
    )
    batch_size: int | None = _option(None, "Images a step.", commands=_TRAIN_AND_REPRODUCE)
    learning_rate: float | None = _option(
        None,
        "Learning rate. Default: the recipe's; of kdx quantize 0.001, the peak of one cycle.",
        commands=_TRAIN_AND_REPRODUCE | _QUANTIZE,
    )
    headroom: float = _option(
        1.0,
        "INT8 clips activations at this multiple of their limits on good training images and drawn defects.",
        key=None,
        limits=(1, 4),
        commands=_QUANTIZE,
    )
    damage: float | None = _option(
        None,
        "Share of the images that students see with drawn damage, from 0 to 1, while they must answer as if there "
        "were none. Default: the recipe's, which is 0 for the papers'.",
    )
    border_weights: Literal["on", "off"] | None = _option(
        None,
        "Whether the map that makes the score is weighted by its distance from the border: less where maps of good "
        "training images are higher, as they often are at the border. Default: the recipe's, which is off for the "
        "papers'.",
    )
    mixed_precision: bool = _option(
        False,
        "Compute the forward pass of what learns in BF16, and the rest in FP32: faster on GPUs and CPUs with BF16, "
        "slower on others. Compact teachers learn so too; INT8 students do not.",
        commands=_TRAIN_AND_DISTIL,
    )
    taps: str | None = _option(
        None,
        "Where features are compared, e.g. layer1,layer2; for two teachers layer1,layer2/blocks.4,blocks.6.",
        commands=_ALL,
    )
    combine: Literal["sum", "product"] | None = _option(None, "How the taps' maps become one: sum or product.")
    score: Literal["max", "sum"] | None = _option(None, "How the map becomes a score: max or sum.")
    blur_sigma: float | None = _option(
        None,
        "Gaussian blur of the anomaly map, in map pixels; 0 for none.",
        flag="sigma",
        key="sigma",
        commands=_TRAIN_AND_REPRODUCE,
    )
    seed: int = _option(
        0,
        "Seed of everything random.",
        limits=(0, 2**32 - 1),  # NumPy's
        shell_limits=(0, 2**32 - 1),
        commands=_TRAIN_AND_FIT,
    )
    train_fraction: float = _option(1.0, "Share of the training images to use, e.g. 0.1.", commands=_TRAIN_AND_DISTIL)
    validation_fraction: float | None = _option(
        None,
        "Share of the good images to hold out. Default: the recipe's; of kdx fit 0.2, or what the false-reject rate "
        "needs.",
        commands=_ALL,
    )
    group_by: str | None = _option(
        None,
        "Images whose names have the same match show one part and are held out together, e.g. 'part(\\d+)'.",
        metavar="REGEX",
        commands=_TRAIN_AND_FIT,
    )
    parts: Path | None = _option(  # noqa: RUF009  # a field
        None,
        "The same from a CSV file of two columns, file name or path, and part. Published data sets know theirs.",
        metavar="CSV",
        commands=_TRAIN_AND_FIT,
    )
    odd_images: Literal["stop", "skip", "keep"] = _option(
        "stop",
        "What to do where most images agree in size, colour or bit depth and few do not: stop, skip those few, or "
        "keep them and accept what they make of the detector.",
        commands=_TRAIN_AND_FIT,
    )
    channels: Literal["auto", "1", "3"] = _option(
        "auto",
        "What the camera delivers: 3 (colour), 1 (mono), auto (as the images).",
        commands=_TRAIN_AND_FIT,
        key_type=Literal["auto", 1, 3],
    )
    sixteen_bit_range: tuple[int, int] = _option(
        (0, 65535),
        "The 16-bit grey values that become black and white (12-bit camera: 0:4095).",
        metavar="LOW:HIGH",
        commands=_TRAIN_AND_FIT,
    )
    max_bad_images: int = _option(
        0,
        "How many unreadable images to name and skip.",
        limits=(0, 2**31),
        shell_limits=(0, None),
        decides=False,
        commands=_ALL | _QUANTIZE,
    )
    workers: int = _option(
        2,
        "Processes that decode images.",
        limits=(0, 1024),
        shell_limits=(0, None),
        decides=False,
        commands=_ALL | _QUANTIZE,
    )
    memory_mib: int = _option(
        4096,
        "Memory for images, and again for the teacher's cached features, and for a compact teacher's variants.",
        limits=(0, 2**30),
        shell_limits=(16, None),
        decides=False,
        commands=_ALL | _QUANTIZE,
    )
    device: str = _option(
        "auto", "Where to train: auto, cpu, cuda or cuda:N.", decides=False, commands=_ALL | _QUANTIZE
    )

    @property
    def folder_options(self) -> FolderOptions:
        """What the user says about the data folder."""
        return FolderOptions(self.subfolders, self.good_folders)

    def changed(self, *, without: Collection[str] = ()) -> dict[str, Any]:
        """Return the options that decide a result and differ from their defaults, as JSON.

        Args:
            without: Names of options that are recorded elsewhere, or set by the caller.
        """
        kept = {each.name for each in fields(self) if each.name not in without and decides(each)}
        values = {name: value for name in kept if (value := getattr(self, name)) != getattr(_DEFAULTS, name)}
        # Decoded again, so that it equals what a later call reads: JSON has lists, but no tuples.
        # Paths need not be UTF-8.
        decoded: dict[str, Any] = json.loads(json.dumps(values, default=str, sort_keys=True))
        return decoded


_DEFAULTS = TrainOptions()
_TYPES = get_type_hints(TrainOptions)


def declared() -> Iterator[tuple[Field[Any], Option, Any]]:
    """Yield the field, the declaration and the type of each option that users can give."""
    for each in fields(TrainOptions):
        if "option" in each.metadata:
            yield each, each.metadata["option"], _TYPES[each.name]


def decides(one: Field[Any]) -> bool:
    """Whether an option decides what a training results in."""
    option: Option | None = one.metadata.get("option")
    return option is None or option.decides


def choices(kind: Any) -> tuple[str, ...]:
    """Return the values that a type allows, where it lists them: those of a ``Literal``."""
    kinds = (kind, *get_args(kind))
    return tuple(value for each in kinds if get_origin(each) is Literal for value in get_args(each))


def check_limits(options: TrainOptions) -> None:
    """Check each option by itself.

    Raises:
        OptionError: A value is outside the option's limits, or is none of its choices.
    """
    for each, option, kind in declared():
        value, allowed = getattr(options, each.name), choices(kind)
        if value is None:
            continue
        if allowed and value not in allowed:
            raise OptionError(f"invalid `{each.name}`", expected=", ".join(allowed), received=str(value) or "''")
        if option.limits is not None:
            low, high = option.limits
            if not low <= value <= high:
                raise OptionError(f"`{each.name}` is out of range", expected=f"{low} to {high}", received=str(value))
