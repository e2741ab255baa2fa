"""A catalogue of products, what ``kdx train-many`` trains: TOML with defaults, and a table a product. No torch here.

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

import difflib
import os
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from kdx.bundle.variants import PRECISIONS
from kdx.errors import DataError, OptionError
from kdx.imaging.images import ChannelOrder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# They decide where and how quickly a product is trained, not what comes out; of files, the content does.
_FREE = ("data", "device", "memory_mib", "parts", "weights", "workers")
# Once options of training; the reason is for whoever still gives them.
REMOVED = {
    "distance": "leave it out: half the squared distance of unit vectors is their cosine distance",
}
# Keys that came later, with their defaults: where they are not used, what was trained before them is unchanged.
_LATER: dict[str, object] = {"subfolders": False, "good_folders": (), "odd_images": "stop"}
_NO_ESCAPES = (
    "in double quotes \\ begins an escape: write paths as 'D:\\parts\\tile' in single quotes, or as D:/parts/tile"
)
_NAMED_WEIGHTS = ("imagenet", "random")


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """One product: the options of ``kdx train``, ``export`` and ``calibrate``, under their names with underscores.

    Attributes:
        data: Its images, relative to the catalogue.
        subfolders: Whether images in subfolders belong to the folder around them.
        good_folders: Further names of folders of good images (``--good-folder``).
        options: The method's own options.
        precisions: In which to export.
        input_size: Height and width of the camera's images; None for that of the training images.
        checkpoint: ``last`` or ``best``; None as the method's recipe says.
        false_reject_rate: Share of good parts that may be rejected.
        review_rate: Share of good parts that may be rejected or put aside for review; None for no review band.
        backend: Whose scores set the threshold.
    """

    data: str
    category: str | None = None
    subfolders: bool = False
    good_folders: tuple[str, ...] = ()
    method: str = "stpm"
    options: dict[str, str] = {}
    backbone: str | None = None
    weights: str = "imagenet"
    epochs: int | None = None
    image_size: int | None = None
    crop_from: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    taps: str | None = None
    combine: Literal["sum", "product"] | None = None
    score: Literal["max", "sum"] | None = None
    sigma: float | None = None
    seed: int = 0
    train_fraction: float = 1.0
    validation_fraction: float | None = None
    group_by: str | None = None
    parts: str | None = None
    odd_images: Literal["stop", "skip", "keep"] = "stop"
    channels: Literal["auto", 1, 3] = "auto"
    sixteen_bit_range: tuple[int, int] = (0, 65535)
    max_bad_images: int = 0
    workers: int = 2
    memory_mib: int = 4096
    device: str = "auto"
    checkpoint: Literal["last", "best"] | None = None
    input_size: tuple[int, int] | None = None
    channel_order: ChannelOrder = "rgb"
    max_batch: int = 32
    precisions: tuple[str, ...] = ("fp32",)
    false_reject_rate: float = 0.01
    review_rate: float | None = None
    backend: str = "auto"

    @property
    def decisive(self) -> dict[str, Any]:
        """What decides the product's bundle beside the content of its files, by name."""
        options = {name: value for name, value in msgspec.structs.asdict(self).items() if name not in _FREE}
        for name, default in _LATER.items():
            if options[name] == default:
                del options[name]
        weights = [part if part in _NAMED_WEIGHTS else "file" for part in self.weights.split(",")]
        return {**options, "weights": weights}

    @property
    def files(self) -> list[Path]:
        """The files that the catalogue names beside the images: the teachers' weights, and the table of parts."""
        weights = [Path(part) for part in self.weights.split(",") if part not in _NAMED_WEIGHTS]
        return [*weights, *([Path(self.parts)] if self.parts else [])]


_FIELDS = Product.__struct_fields__


def read_catalog(path: Path) -> dict[str, Product]:
    """Read a catalogue; return its products by name, with absolute paths.

    Raises:
        DataError: There is no such file, or it is no TOML.
        OptionError: A table or key is unknown, a value of the wrong type or not possible, or there is no product.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the catalogue '{path}' cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        fix = _NO_ESCAPES if "\\" in path.read_text(encoding="utf-8-sig") else ""
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


def _product(name: str, table: object, defaults: Mapping[str, Any], folder: Path) -> Product:
    where = f"[products.{name}]"
    _require_table(table, where)
    assert isinstance(table, dict)
    if not _NAME.fullmatch(name):
        raise OptionError(
            f"{where} cannot be a file's name", expected="letters, digits, '.', '_' and '-'", received=name
        )
    _require_known(table, _FIELDS, where, "key")
    fields = {**defaults, **table}
    # A method's own options belong to the method: those of the defaults only go with it.
    if table.get("method", defaults.get("method")) != defaults.get("method") and "options" not in table:
        fields.pop("options", None)
    if "data" not in fields:
        raise OptionError(f"{where} names no data", expected='data = "FOLDER"')
    try:
        product = msgspec.convert(fields, Product)
    except msgspec.ValidationError as error:
        key = str(error).partition("$.")[2].partition("`")[0].partition("[")[0].partition(".")[0]
        raise OptionError(
            f"{where} is not valid: {error}", expected=_allowed(key), received=f"{key} = {fields.get(key)!r}"
        ) from error
    _require_possible(product, where)
    _require_paths(product, where, folder)
    weights = [w if w in _NAMED_WEIGHTS else str(folder / w) for w in map(str.strip, product.weights.split(","))]
    return msgspec.structs.replace(
        product,
        data=str(folder / product.data),
        parts=str(folder / product.parts) if product.parts else None,
        weights=",".join(weights),
    )


def _allowed(key: str) -> str:
    """Say which values a key takes, where they can be counted."""
    kind = get_type_hints(Product).get(key)
    kinds = [each for each in (kind, *get_args(kind)) if get_origin(each) is Literal]
    return " or ".join(str(value) for each in kinds for value in get_args(each))


def _require_possible(product: Product, where: str) -> None:
    unknown = [precision for precision in product.precisions if precision not in PRECISIONS]
    if unknown:
        raise OptionError(f"{where}: precisions", expected=", ".join(PRECISIONS), received=", ".join(unknown))
    if not 0 < product.false_reject_rate < 1:
        raise OptionError(
            f"{where}: false_reject_rate is out of range",
            expected="above 0 and below 1, e.g. 0.01",
            received=f"{product.false_reject_rate:g}",
        )


def _require_paths(product: Product, where: str, folder: Path) -> None:
    """Refuse what can only be a Windows path that TOML, or this system, reads otherwise."""
    for name in ("data", "parts", "weights"):
        text = getattr(product, name) or ""
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
            near = difflib.get_close_matches(name, [*known, *(other.replace("_", "-") for other in known)], n=2)
            raise OptionError(
                f"{where} has an unknown {kind} '{name}'",
                expected=" or ".join(dict.fromkeys(other.replace("-", "_") for other in near)) or ", ".join(known),
            )
