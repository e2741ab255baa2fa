"""The bundles of a station: which one judges a part, and how a replaced one is taken up."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec

from kdx.bundle.index import read_index
from kdx.bundle.keys import absolute_keys
from kdx.bundle.manifest import INDEX
from kdx.bundle.open import open_bundle
from kdx.errors import BundleError, KdxError, OptionError
from kdx.loading.origin import Origin
from kdx.monitoring.judged_by import JudgedBy
from kdx.runtime.backend import ClosesOnExit, require_threads
from kdx.runtime.detector import Detector
from kdx.storage.files import sha256_bytes

# After how many seconds a bundle that could not be taken up is tried again: files may be missing
# that are still being copied. A bundle that takes long to load, and is refused after that, would
# leave no time to judge: the pause is at least so many times as long as the attempt.
_AGAIN_SECONDS, _PAUSE_AFTER_ATTEMPT = 5.0, 20


@dataclass(frozen=True)
class LoadOptions:
    """How bundles are loaded, see :func:`kdx.load`.

    Attributes:
        backend: A backend's name, or ``auto``.
        threads: Threads within an operation, or None.
        precision: The precision of the graph, or None.
        require_signature: Public keys, by one of which a bundle must be signed.
        heat_maps: Whether heat maps are drawn, for which frames must be whole.
    """

    backend: str = "auto"
    threads: int | None = None
    precision: str | None = None
    require_signature: Sequence[Path] = ()
    heat_maps: bool = False


class BundleRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line among the records: which bundle judges from now on, or why it is still the old one.

    Attributes:
        event: ``bundle`` where one was loaded, ``bundle_refused`` where another one could not be.
        time: As for :class:`kdx.station.record.VerdictRecord`.
        by: What judges from now on.
        product: The product whose parts it judges, or None.
        replaces: The hash of the ``bundle.json`` of what judged before, or None.
        error: Why another bundle was not taken up, or None.
    """

    event: str
    time: str
    by: JudgedBy
    product: str | None = None
    replaces: str | None = None
    error: dict[str, str] | None = None


class Loaded(ClosesOnExit):
    """A bundle that judges, and the state of its folder when it was looked at last.

    Attributes:
        path: The bundle's folder.
        detector: Its detector.
        by: What stands of it in records.
    """

    def __init__(self, path: Path, options: LoadOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._options, self._clock = options, clock
        self._index = _status(path)
        self.detector, self.by = _load(path, options)
        self._refused: str | None = None
        self._again = float("inf")

    @property
    def is_refused(self) -> bool:
        """Whether what is in the folder now could not be taken up, and the bundle before judges."""
        return self._refused is not None

    def close(self) -> None:
        """Free the detector."""
        self.detector.close()

    def take_up(self) -> JudgedBy | KdxError | None:
        """Take up the bundle that is in the folder now, if it is another one and whole.

        Returns:
            What judged before, if another bundle judges from now on; why it could not be taken up,
            once for each reason; None if nothing changed.
        """
        index = _status(self.path)
        if index == self._index and self._clock() < self._again:
            return None
        self._index = index
        began = self._clock()
        try:
            if sha256_bytes(read_index(self.path)) == self.by.bundle_sha256:
                self._refused, self._again = None, float("inf")
                return None
            detector, by = _load(self.path, self._options)
        except Exception as problem:  # whatever it is, what judges goes on
            error = self._explained(problem)
            ended = self._clock()
            self._again = ended + max(_AGAIN_SECONDS, _PAUSE_AFTER_ATTEMPT * (ended - began))
            is_new = self._refused != error.message
            self._refused = error.message
            return error if is_new else None
        self._refused, self._again = None, float("inf")
        self.detector.close()
        before, self.detector, self.by = self.by, detector, by
        return before

    def _explained(self, problem: Exception) -> KdxError:
        if isinstance(problem, KdxError):
            return problem
        if isinstance(problem, OSError):
            return BundleError(f"'{self.path}' cannot be read: {problem}")
        return BundleError(f"'{self.path}' cannot be loaded: unexpected {type(problem).__name__}: {problem}")


class Bundles(ClosesOnExit):
    """The bundles of a station by product, or the only one. A context manager.

    Args:
        paths: The bundle of each product; the only bundle may have the product None.
        options: How they are loaded.

    Raises:
        KdxError: As for :func:`kdx.load`.
    """

    def __init__(self, paths: Mapping[str | None, Path], options: LoadOptions) -> None:
        self._loaded: dict[str | None, Loaded] = {}
        try:
            for product, path in paths.items():
                self._loaded[product] = Loaded(path, options)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free all detectors."""
        for loaded in self._loaded.values():
            loaded.close()

    def __iter__(self) -> Iterator[tuple[str | None, Loaded]]:
        return iter(self._loaded.items())

    def of(self, product: str | None) -> Loaded | None:
        """Return what judges a product; None if no bundle belongs to it."""
        return self._loaded.get(product) or self._loaded.get(None)


def bundle_paths(given: Sequence[str]) -> dict[str | None, Path]:
    """Return the bundles as users give them: ``PATH``, or ``PRODUCT=PATH`` for each product.

    Raises:
        OptionError: Several bundles without products, or two of one product.
    """
    found: dict[str | None, Path] = {}
    for text in given:
        product, is_named, path = text.partition("=")
        if is_named and not Path(text).exists() and os.sep not in product:
            key: str | None = product
        else:
            key, path = None, text
        if key in found or (found and None in {key, *found}):
            raise OptionError(
                "several bundles need a product each",
                expected="`bundle=PRODUCT=PATH` for each, every product once",
                received=", ".join(given),
                fix="name the products, and how files name theirs: `part_id=REGEX` with a group (?P<product>...)",
            )
        found[key] = Path(path)
    return found


def _load(path: Path, options: LoadOptions) -> tuple[Detector, JudgedBy]:
    """Load a bundle whose every file has the hash that its index says.

    Raises:
        BundleError: It was replaced while it was loaded, or a file disappeared.
        OptionError: It reads frames in bands, of which no heat maps are drawn.
        KdxError: As for :func:`kdx.load`.
    """
    require_threads(options.threads)
    keys = tuple(options.require_signature) or None
    try:
        bundle = open_bundle(path, require_signature=keys)
        origin = Origin(
            path=bundle.path.absolute(),
            sha256=bundle.index_sha256,
            backend=options.backend,
            threads=options.threads,
            precision=options.precision,
            require_signature=absolute_keys(keys),
        )
        detector = origin.detector(bundle)
    except OSError as error:
        raise BundleError(f"'{path}' cannot be read: {error}", fix="copy the bundle again") from error
    if detector.input.is_in_bands and options.heat_maps:
        detector.close()
        raise OptionError(
            f"'{path}' reads frames in bands, which are never whole in the memory", fix="leave out `heat_maps`"
        )
    if detector.input.is_in_bands and find_spec("tifffile") is None:
        detector.close()
        raise BundleError(
            f"'{path}' reads frames in bands, which needs the package 'tifffile'", fix='pip install "kdx[bands]"'
        )
    return detector, JudgedBy.of(detector, bundle)


def _status(path: Path) -> tuple[int, int, int] | None:
    """Return by what a replaced index is noticed, before it is read; None if there is none."""
    try:
        found = (path / INDEX).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
