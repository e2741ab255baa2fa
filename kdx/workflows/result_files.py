"""The files that ``kdx predict`` writes: a table, maps, masks, and annotations of regions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from kdx.decision.label_files import CLASS, YOLO_DATA, LabelledImage, coco_document, yolo_text
from kdx.decision.map_files import MapFiles, MapPlace, map_format
from kdx.decision.verdict import locates_defects
from kdx.errors import InputError, OptionError, OutputError
from kdx.imaging.images import read_header
from kdx.storage.files import refuse_existing, write_atomic
from kdx.storage.json_output import encode_json
from kdx.storage.spreadsheet import SKIPPED, TABLE, CsvStyle, csv_lines, csv_style, path_text
from kdx.workflows.result_names import relative_names, require_distinct

if TYPE_CHECKING:
    from kdx.decision.map_files import MapFormat
    from kdx.decision.regions import Region
    from kdx.decision.verdict import Verdict
    from kdx.loading.group import DetectorGroup
    from kdx.runtime.detector import Detector

COCO = "regions.coco.json"
_LABELS = "labels"
_YOLO_FILES = {"classes.txt": f"{CLASS}\n", "data.yaml": YOLO_DATA}
# Columns that every table has, whatever the verdicts of its images are.
_FIRST = ("image", "verdict", "score", "threshold", "margin")
_ROW = 400  # bytes of a row without paths, at most
_LAST = ("review_threshold", "reason", "frame_faults", "error")


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """Which files are written.

    Attributes:
        folder: The folder of all files.
        csv: The style of the table of verdicts; None for no table.
        maps: The format of maps; None for no maps.
        masks: Whether a mask of each image is written.
        coco: Whether the regions of all images are written in COCO's format.
        yolo: Whether the regions of each image are written in YOLO's format.
        min_area: The smallest area of an annotated region, in pixels of the image.
    """

    folder: Path
    csv: CsvStyle | None = None
    maps: MapFormat | None = None
    masks: bool = False
    coco: bool = False
    yolo: bool = False
    min_area: float = 0.0

    @property
    def needs_threshold(self) -> bool:
        """Whether a file shows what exceeds the pixel threshold."""
        return self.masks or self.coco or self.yolo


def result_options(
    folder: Path | None,
    csv: bool,
    maps: str | None,
    masks: bool,
    coco: bool,
    yolo: bool,
    *,
    semicolons: bool = False,
    min_area: float = 0.0,
) -> ResultOptions | None:
    """Return the options as users give them; None for no files.

    Raises:
        OptionError: Files without a folder, a folder without files, or an unknown format of maps.
    """
    if not (csv or maps or masks or coco or yolo):
        if folder is not None:
            raise OptionError("nothing would be written to `out`", fix="add `csv`, `maps`, `masks`, `coco` or `yolo`")
        return None
    if folder is None:
        raise OptionError("the files need a folder", fix="name one: `out=FOLDER`")
    return ResultOptions(
        folder=folder,
        csv=csv_style(semicolons=semicolons) if csv else None,
        maps=None if maps is None else map_format(maps),
        masks=masks,
        coco=coco,
        yolo=yolo,
        min_area=min_area,
    )


@dataclass
class _OfBundle:
    """The files of one bundle's verdicts."""

    folder: Path
    maps: MapFiles
    labelled: list[LabelledImage] = field(default_factory=list)


class ResultFiles:
    """Writes the files of a call. A context manager: at its end, table and COCO file are written.

    Maps, masks and YOLO files are written with each verdict, and every file in one step: a call
    that is interrupted leaves whole files, and a table that names the images that were not judged:
    those have no files, also where an earlier call had written some.

    Args:
        options: Which files.
        paths: The images.
        bundles: The names of the bundles; several have a folder each.
        records: The records of the verdicts, which the caller adds.
        bad: The reasons why images were skipped, by path, which the caller adds.
        texts: Further texts in every row of a bundle, for the table's room on the disk.
        force: Whether to replace files that exist.
        size: Returns the width and height of an image.

    Raises:
        OptionError: Two images would share a file.
        OutputError: A file exists, or would replace an image.
    """

    def __init__(
        self,
        options: ResultOptions,
        paths: Sequence[Path],
        bundles: Sequence[str],
        records: Sequence[Mapping[str, Any]],
        bad: Mapping[str, str],
        *,
        texts: Mapping[str, Sequence[str]] | None = None,
        force: bool = False,
        size: Callable[[Path], tuple[int, int]] = lambda path: read_header(path)[:2],
    ) -> None:
        self._size = size
        self._options, self._paths, self._records, self._bad = options, paths, records, bad
        self._has_bundles = len(bundles) > 1
        self._root, self._names = relative_names(paths)
        if options.maps is not None or options.needs_threshold:
            require_distinct(self._names, yolo=options.yolo)
        folders = {name: options.folder / name if self._has_bundles else options.folder for name in bundles}
        self._of = {
            name: _OfBundle(folder, MapFiles(folder, options.maps, options.masks)) for name, folder in folders.items()
        }
        images = {Path(os.path.realpath(path)) for path in paths}
        for target in self._targets():
            if target.resolve() in images:
                raise OutputError(f"'{target}' is an image and would be replaced", fix="choose another `out`")
            refuse_existing(target, force=force)
        for target in self._targets() if force else ():  # an image may be skipped that had files
            target.unlink(missing_ok=True)
        self._added: tuple[Path, str] | None = None
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        self._space = options.folder / f".{TABLE}.space.part"
        if options.csv is not None:
            self._keep_space(texts or {})

    def add(
        self, path: Path, bundle: str, verdict: Verdict, detector: Detector, regions: Sequence[Region] | None = None
    ) -> dict[str, str]:
        """Write the files of a verdict, and return the paths of its map and its mask.

        ``regions`` are those of a frame that was read in bands, whose verdict has no whole map.

        A verdict on an invalid answer has no files, and one on a frame that shows no part has a map
        alone: neither is an image without defects.

        Raises:
            OSError: A file cannot be written.
        """
        self._added = path, bundle
        ours, name = self._of[bundle], self._names[path]
        place = place_of(path, detector, self._size)
        written = ours.maps.write(name, verdict, place)
        if (self._options.coco or self._options.yolo) and locates_defects(verdict):
            if regions is None:
                image = LabelledImage.of(name, verdict, place, self._options.min_area)
            else:
                image = LabelledImage(name, place.width, place.height, regions, [[] for _ in regions])
            ours.labelled.append(image)
            if self._options.yolo:
                target = self._label_file(ours, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(target, yolo_text(image).encode())
        return {kind: str(file) for kind, file in written.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self._remove_unrecorded()
            self._finish()
        except OSError:
            if error is None:  # else the first error is the one to report, for example a full disk
                raise

    def _remove_unrecorded(self) -> None:
        """Remove the files of a verdict that the call was stopped at, before it had its record."""
        if self._added is None:
            return
        path, bundle = self._added
        last = self._records[-1] if self._records else {}
        if last.get("image") == str(path) and last.get("bundle", bundle) == bundle:
            return
        ours, name = self._of[bundle], self._names[path]
        ours.labelled = [image for image in ours.labelled if image.name != name]
        for target in self._targets_of(ours, path):
            target.unlink(missing_ok=True)

    def _keep_space(self, texts: Mapping[str, Sequence[str]]) -> None:
        """Take the space of the table, so that it fits on a disk that maps have filled."""
        try:
            with self._space.open("wb") as file:
                for path in self._paths:
                    for name, ours in self._of.items():
                        written = (name, *map(str, self._targets_of(ours, path)), *texts.get(name, ()))
                        # The image is named in the reason why it was skipped, and in its heat map.
                        file.write(bytes(_ROW + 4 * _bytes(str(path)) + sum(map(_bytes, written))))
        except OSError as error:
            self._space.unlink(missing_ok=True)
            error.filename = error.filename or str(self._options.folder / TABLE)
            raise

    def _finish(self) -> None:
        self._space.unlink(missing_ok=True)
        if self._options.csv is not None:
            write_atomic(self._options.folder / TABLE, *csv_lines(self._rows(), self._columns(), self._options.csv))
        for ours in self._of.values():
            if self._options.coco:
                document = coco_document(ours.labelled, f"regions that kdx found in images of {self._root}")
                write_atomic(ours.folder / COCO, encode_json(document) + b"\n")
            for name, text in _YOLO_FILES.items() if self._options.yolo else ():
                write_atomic(ours.folder / name, text.encode())

    def _columns(self) -> list[str]:
        seen = [name for record in self._records for name in record]
        first = (*(("bundle",) if self._has_bundles else ()), *_FIRST)
        return list(dict.fromkeys((*first, *seen, *_LAST)))

    def _rows(self) -> Iterator[dict[str, object]]:
        """Yield a row of each image and bundle, in the order of the images."""
        by_image: dict[str, list[Mapping[str, Any]]] = {}
        for record in self._records:
            by_image.setdefault(record["image"], []).append(record)
        for path in map(str, self._paths):
            image = path_text(path)
            if path in self._bad:
                yield {"image": image, "verdict": SKIPPED, "error": self._bad[path]}
            elif path not in by_image:
                yield {"image": image, "verdict": "not judged"}
            for record in by_image.get(path, ()):
                regions = record.get("regions")
                yield {**record, "image": image, "regions": regions if regions is None else len(regions)}

    def _targets(self) -> Iterator[Path]:
        if self._options.csv is not None:
            yield self._options.folder / TABLE
        for ours in self._of.values():
            if self._options.coco:
                yield ours.folder / COCO
            yield from (ours.folder / name for name in _YOLO_FILES if self._options.yolo)
            for path in self._names:
                yield from self._targets_of(ours, path)

    def _targets_of(self, ours: _OfBundle, path: Path) -> Iterator[Path]:
        yield from ours.maps.targets(self._names[path]).values()
        if self._options.yolo:
            yield self._label_file(ours, path)

    def _label_file(self, ours: _OfBundle, path: Path) -> Path:
        return (ours.folder / _LABELS / self._names[path]).with_suffix(".txt")


def _bytes(text: str) -> int:
    """Return how many bytes of the table a text takes."""
    return len(text.encode("utf-8", "backslashreplace")) + text.count('"')


def require_thresholds(options: ResultOptions, group: DetectorGroup) -> None:
    """Raise ``InputError`` if a file needs a pixel threshold and a bundle has none."""
    without = [name for name in group if group[name].pixel_threshold is None]
    if options.needs_threshold and without:
        raise InputError(
            f"'{without[0]}' is not calibrated, so there is no pixel threshold for masks and regions",
            fix="calibrate it: kdx calibrate BUNDLE DATA; maps need no threshold",
        )


def place_of(
    path: Path, detector: Detector, size: Callable[[Path], tuple[int, int]] = lambda path: read_header(path)[:2]
) -> MapPlace:
    """Return where the map of an image lies in its upright picture.

    Args:
        path: The image.
        detector: The detector that judged it.
        size: Returns the width and height of an image.

    Raises:
        ImageError: The file cannot be read.
    """
    spec = detector.input
    width, height = (spec.width, spec.height) if spec.fixed_size else size(path)
    return MapPlace(width, height, detector.view)
