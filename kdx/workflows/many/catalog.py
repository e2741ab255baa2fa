"""The catalogue of ``kdx train-many``: TOML with defaults, and a table for each product.

[defaults]
backbone = "tf_efficientnet_lite0"
epochs = 30

[products.tile]
data = "parts/tile"

[products.nut]
data = "parts/nut"
method = "dual-det"
options = { part = "kd" }
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from kd_train.training.distilled_teacher import TEACHER_FILE
from kd_train.training.options import TrainOptions, declared
from kdx.bundle.variants import PRECISIONS
from kdx.errors import DataError, KdxError, OptionError
from kdx.folders.image_search import walk_parts
from kdx.imaging.images import ChannelOrder
from kdx.storage.json_records import RUN_INDEX, describe_invalid
from kdx.text import near_names, spelled

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Options of training that were removed, each with the advice for users who still give it.
REMOVED = {
    "distance": "leave it out: half the squared distance of unit vectors is their cosine distance",
}
# What is hashed of a product, in this order: whoever changes it trains every finished product
# again.
_HASHED = (
    *("category", "subfolders", "good_folders", "method", "options", "backbone", "epochs", "image_size", "crop_from"),
    *("batch_size", "learning_rate", "taps", "combine", "score", "sigma", "seed", "train_fraction"),
    *("validation_fraction", "group_by", "odd_images", "channels", "sixteen_bit_range", "max_bad_images", "checkpoint"),
    *("input_size", "channel_order", "max_batch", "precisions", "false_reject_rate", "review_rate", "backend"),
)
# Of these, and of every key that is not in the list above, only what is not the default: what was
# trained before there was such a key is unchanged.
_HASHED_IF_GIVEN = frozenset({"subfolders", "good_folders", "odd_images"})
# What is hashed in another form: of files the content.
_BY_CONTENT = frozenset({"data", "parts", "weights", "extra_images", "init"})
_NO_ESCAPES = (
    "in double quotes \\ begins an escape: write paths as 'D:\\parts\\tile' in single quotes, or as D:/parts/tile"
)
_NAMED_WEIGHTS = ("imagenet", "random")
_PAGE = "the page 'Scale-out' of the documentation"
_EXAMPLE = f"{_PAGE} shows a catalogue"
_KEYS = f"{_PAGE} lists the keys of a product"
_KEY_OF = {each.name: option.key or each.name for each, option, _ in declared()}


def _training_keys() -> list[tuple[str, Any, Any]]:
    """Return name, type and default of the key of each training option; paths are texts in TOML."""
    keys: list[tuple[str, Any, Any]] = [("options", dict[str, str], msgspec.field(default_factory=dict))]
    for each, option, kind in declared():
        if option.key is not None:
            key_type = str | None if kind == Path | None else option.key_type or kind
            keys.append((option.key or each.name, key_type, each.default))
    return keys


_TrainingKeys: Any = msgspec.defstruct("_TrainingKeys", _training_keys(), frozen=True, kw_only=True)


class Product(_TrainingKeys, frozen=True, kw_only=True):  # type: ignore[misc, call-arg]
    """One product: options of ``kdx train``, ``export`` and ``calibrate``, with underscores.

    The keys of training are those of the table in ``kd_train/training/options.py``, and
    ``options``: the method's own.

    Attributes:
        data: Folder of the images, relative to the catalogue.
        precisions: Precisions to export.
        input_size: Height and width of the camera's images; None for that of the training images.
        frame: Height and width of large frames that are judged in tiles; None for that of the
            images trained on.
        overlap: Least overlap of tiles in the camera's pixels; None for what the networks need.
        tile_batch: Tiles that go through the graph at once; None for the default of ``kdx export``.
        checkpoint: ``last`` or ``best``; None as the method's recipe says.
        false_reject_rate: Share of good parts that may be rejected.
        review_rate: Share of good parts that may be rejected or put aside for review; None for no
            review band.
        per_position: Whether maps are divided by how hot good parts get at each place.
        backend: Whose scores set the threshold.
        shared_teacher: The name of a compact teacher that the products with this name share; None
            for a teacher of the product's own, and so is an empty name.
    """

    data: str
    checkpoint: Literal["last", "best"] | None = None
    input_size: tuple[int, int] | None = None
    channel_order: ChannelOrder = "rgb"
    max_batch: int = 32
    frame: tuple[int, int] | None = None
    overlap: int | None = None
    tile_batch: int | None = None
    precisions: tuple[str, ...] = ("fp32",)
    false_reject_rate: float = 0.01
    review_rate: float | None = None
    per_position: bool = False
    backend: str = "auto"
    shared_teacher: str | None = None

    @property
    def decisive(self) -> dict[str, Any]:
        """The options that decide the product's bundle beside the content of its files, by name."""
        values = msgspec.structs.asdict(self)
        hashed = {key: values[key] for key in _HASHED if key not in _HASHED_IF_GIVEN or values[key] != _DEFAULTS[key]}
        weights = [part if part in _NAMED_WEIGHTS else "file" for part in self.weights.split(",")]
        later = {
            key: values[key]
            for key in sorted(values.keys() - _NOT_HASHED - hashed.keys())
            if values[key] != _DEFAULTS[key]
        }
        if self._kept_teacher is not None:
            later["teacher_from"] = "folder"  # whose content is hashed
        return {**hashed, "weights": weights, **later}

    @property
    def files(self) -> list[Path]:
        """The files that the catalogue names: of weights and parts."""
        weights = [Path(part) for part in self.weights.split(",") if part not in _NAMED_WEIGHTS]
        return [*weights, *([Path(self.parts)] if self.parts else [])]

    @property
    def teacher_files(self) -> list[Path]:
        """The files of a compact teacher: further images, or that of the teacher that exists."""
        further = [Path(folder) / name for folder in self.extra_images for name in walk_parts(Path(folder))]
        return [*further, *([self._kept_teacher / TEACHER_FILE] if self._kept_teacher is not None else [])]

    @property
    def _kept_teacher(self) -> Path | None:
        """The run folder of a compact teacher that exists, or None if ``teacher_from`` is none."""
        folder = Path(self.teacher_from) if self.teacher_from else None
        return folder if folder is not None and folder.is_absolute() else None

    def with_teacher(self, folder: Path) -> Product:
        """Return the product with the compact teacher of a run folder instead of its own."""
        return msgspec.structs.replace(
            self,
            teacher_from=str(folder),
            teacher_epochs=None,
            extra_images=(),
            weights="imagenet",
            shared_teacher=None,
        )

    def train_options(self, *, resume: bool = False, force: bool = False) -> TrainOptions:
        """Return what training is asked for."""
        values: dict[str, Any] = {"method_options": self.options, "resume": resume, "force": force}
        for each, option, kind in declared():
            if option.key is None:
                continue
            value = getattr(self, option.key or each.name)
            if value is not None and kind == Path | None:
                value = Path(value)
            values[each.name] = str(value) if option.key_type else value
        return TrainOptions(**values)


_FIELDS = Product.__struct_fields__
_DEFAULTS = msgspec.structs.asdict(Product(data=""))
# They decide where and how fast a product is trained, not what comes out; max_bad_images was hashed
# from the start.
_NOT_HASHED = _BY_CONTENT | {option.key or each.name for each, option, _ in declared() if not option.decides}


def read_catalog(path: Path) -> dict[str, Product]:
    """Read a catalogue; return its products by name, with absolute paths.

    Raises:
        DataError: There is no such file, or it is no TOML.
        OptionError: A table or key is unknown, a value of the wrong type or not possible, or there
            is no product.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"the catalogue '{path}' cannot be read: {reason}", expected="a file of TOML", fix=_EXAMPLE
        ) from error
    except tomllib.TOMLDecodeError as error:
        fix = _NO_ESCAPES if "\\" in path.read_text(encoding="utf-8-sig") else _EXAMPLE
        raise DataError(f"the catalogue '{path}' is not valid TOML: {error}", fix=fix) from error
    _require_known(content, ("defaults", "products"), f"'{path}'", "table")
    defaults, products = content.get("defaults", {}), content.get("products", {})
    for name, table in (("defaults", defaults), ("products", products)):
        _require_table(table, f"[{name}]")
    if not products:
        raise OptionError(
            f"'{path}' names no product", expected='[products.NAME] with data = "FOLDER"', fix="add a table a product"
        )
    _require_known(defaults, _FIELDS, "[defaults]", "key")
    return {name: _product(name, table, defaults, path.resolve().parent) for name, table in products.items()}


def of_keys(error: KdxError, where: str) -> OptionError:
    """Return an error of a product's options that names keys of the catalogue.

    Args:
        error: What was raised; it names parameters.
        where: The table of the catalogue.
    """
    message, expected, received, fix = (
        spelled(text, _as_key) for text in (error.message, error.expected, error.received, error.fix)
    )
    return OptionError(f"{where}: {message}", expected=expected, received=received, fix=fix or _KEYS)


def _as_key(name: str, value: str | None) -> str | None:
    key = _KEY_OF.get(name, name)
    return key if value is None else f"{key} = {value}"


def _product(name: str, table: object, defaults: Mapping[str, Any], folder: Path) -> Product:
    where = f"[products.{name}]"
    _require_table(table, where)
    assert isinstance(table, dict)
    if not _NAME.fullmatch(name):
        raise _not_a_name(where, name)
    _require_known(table, _FIELDS, where, "key")
    fields = {**defaults, **table}
    # A method's own options belong to the method: those of the defaults only go with it.
    if table.get("method", defaults.get("method")) != defaults.get("method") and "options" not in table:
        fields.pop("options", None)
    # A teacher that exists has learnt already.
    if _is_run(table.get("teacher_from"), folder):
        for key in ("teacher_epochs", "extra_images"):
            if key not in table:
                fields.pop(key, None)
    if "data" not in fields:
        raise OptionError(f"{where} names no data", expected='data = "FOLDER"')
    try:
        product = msgspec.convert(fields, Product)
    except msgspec.ValidationError as error:
        key = str(error).partition("$.")[2].partition("`")[0].partition("[")[0].partition(".")[0]
        raise OptionError(
            f"{where} is not valid: {describe_invalid(error)}",
            expected=_allowed(key),
            received=f"{key} = {fields.get(key)!r}",
            fix=_KEYS,
        ) from error
    _require_possible(product, where)
    if product.shared_teacher and not _NAME.fullmatch(product.shared_teacher):
        raise _not_a_name(f"{where}: shared_teacher", product.shared_teacher)
    _require_paths(product, where, folder)
    weights = [w if w in _NAMED_WEIGHTS else str(folder / w) for w in map(str.strip, product.weights.split(","))]
    return msgspec.structs.replace(
        product,
        data=str(folder / product.data),
        parts=str(folder / product.parts) if product.parts else None,
        init=str(folder / product.init) if product.init else None,
        weights=",".join(weights),
        teacher_from=_folder_or_name(product.teacher_from, folder),
        extra_images=tuple(str(folder / each) for each in product.extra_images),
        shared_teacher=product.shared_teacher or None,
    )


def _not_a_name(where: str, received: str) -> OptionError:
    return OptionError(
        f"{where} is not usable as a file's name", expected="letters, digits, '.', '_' and '-'", received=received
    )


def _folder_or_name(text: Any, folder: Path) -> Any:
    """Return the absolute path of a run folder, or the name of a network as it is."""
    return str(folder / text) if _is_run(text, folder) else text


def _is_run(text: Any, folder: Path) -> bool:
    """Whether a text names a run folder, relative to the catalogue's folder or absolute."""
    return isinstance(text, str) and bool(text) and (folder / text / RUN_INDEX).exists()


def _allowed(key: str) -> str:
    """Say which values a key takes, where they can be counted."""
    kind = get_type_hints(Product).get(key)
    kinds = [each for each in (kind, *get_args(kind)) if get_origin(each) is Literal]
    return " or ".join(str(value) for each in kinds for value in get_args(each))


def _require_possible(product: Product, where: str) -> None:
    unknown = [precision for precision in product.precisions if precision not in PRECISIONS]
    if unknown:
        raise OptionError(
            f"{where}: invalid precisions", expected=", ".join(PRECISIONS), received=", ".join(unknown), fix=_KEYS
        )
    if not 0 < product.false_reject_rate < 1:
        raise OptionError(
            f"{where}: false_reject_rate is out of range",
            expected="above 0 and below 1, e.g. 0.01",
            received=f"{product.false_reject_rate:g}",
            fix=_KEYS,
        )


def _require_paths(product: Product, where: str, folder: Path) -> None:
    """Refuse what can only be a Windows path that TOML, or this system, reads otherwise."""
    named = [(name, getattr(product, name) or "") for name in ("data", "parts", "weights", "init")]
    for name, text in [*named, *(("extra_images", each) for each in product.extra_images)]:
        if not text.isprintable():
            raise OptionError(f"{where}: {name} holds a line break or the like", received=repr(text), fix=_NO_ESCAPES)
        if os.sep == "/" and "\\" in text and not (folder / text).exists():
            raise OptionError(
                f"{where}: there is no '{text}'", fix="separate folders by /, which every system understands"
            )


def _require_table(value: object, where: str) -> None:
    if not isinstance(value, dict):
        raise OptionError(f"{where} is not a table", received=f"{type(value).__name__} {value!r}")


def _require_known(table: Collection[str], known: Collection[str], where: str, kind: str) -> None:
    """Raise ``OptionError`` for the first name that nobody knows, with those that look like it."""
    for name in table:
        if name in REMOVED:
            raise OptionError(f"{where}: '{name}' is no longer a {kind}", fix=REMOVED[name])
        if name not in known:
            near = near_names(name.replace("-", "_"), known, 2)
            raise OptionError(
                f"{where} has an unknown {kind} '{name}'",
                expected=" or ".join(near) or ", ".join(known),
                fix=_KEYS,
            )
