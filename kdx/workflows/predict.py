"""Judging images and videos with one or several bundles: verdicts as records, and heat maps."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdx.decision.regions import require_sizes
from kdx.decision.verdict import locates_defects, verdict_fields
from kdx.errors import DataError, ImageError, OptionError
from kdx.folders.apart import among_images
from kdx.folders.bad_images import skip_bad
from kdx.folders.image_search import LeftOut, checked_is_dir, listing, walk_parts
from kdx.imaging.bands import require_whole_maps
from kdx.imaging.grey_conversion import COLOUR, COLOUR_TEXT
from kdx.imaging.image_identity import KnownImages
from kdx.imaging.images import InputSpec
from kdx.loading.group import DetectorGroup, load_many
from kdx.loading.load import is_run, load, require_outside_bundles
from kdx.progress import SILENT, Progress, track
from kdx.remarks import Remark, remark
from kdx.runtime.banded import is_read_in_bands
from kdx.storage.files import sha256_if_readable
from kdx.storage.json_records import run_to_export
from kdx.storage.path_arguments import folder_name
from kdx.text import number_of
from kdx.workflows.heat_maps import HeatMaps
from kdx.workflows.packages import require_reader
from kdx.workflows.pictures import Pictures
from kdx.workflows.result_files import ResultFiles, ResultOptions, place_of, require_thresholds
from kdx.workflows.trained_images import images_trained_on

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdx.decision.map_files import MapPlace
    from kdx.decision.regions import Region
    from kdx.decision.verdict import Verdict
    from kdx.runtime.detector import Detector

_TRAINED_ON = (
    "[image was|images were] trained on: [its score and p-value say|their scores and p-values say] nothing about "
    "parts that the detector has not seen"
)
_UNLABELLED = (
    "[image shows no part or has an invalid answer: it has|images show no part or have invalid answers: they have] no "
    "mask and no labels. Do not train on [it|them] as on [an image|images] without defects"
)


@dataclass(frozen=True)
class RegionOptions:
    """Which regions are printed, see :func:`kdx.decision.regions.find_regions`.

    Raises:
        OptionError: An invalid area or pixel size.
    """

    min_area: float
    pixel_size_um: float | None

    def __post_init__(self) -> None:
        require_sizes(self.min_area, self.pixel_size_um)


@dataclass
class ReadWithCare:
    """Images whose verdicts say less than a verdict does otherwise.

    Attributes:
        colour: Those that show colour, and were judged by a mono detector.
        trained: Files that a detector was trained on.
        unlabelled: Those of which no masks or labels could be written that were asked for.
    """

    colour: list[Path] = field(default_factory=list)
    trained: list[Path] = field(default_factory=list)
    unlabelled: list[Path] = field(default_factory=list)

    def remarks(self) -> list[Remark]:
        """Return remarks on these images."""
        return [
            *remark(COLOUR, COLOUR_TEXT, self.colour),
            *remark("trained_on", _TRAINED_ON, self.trained),
            *remark("unlabelled", _UNLABELLED, self.unlabelled),
        ]


def judge_files(
    bundle: Path,
    paths: list[Path],
    records: list[dict[str, Any]],
    bad: dict[str, str],
    *,
    also: Sequence[Path] = (),
    shared_teacher: bool = False,
    overlay: Path | None = None,
    regions: RegionOptions | None = None,
    results: ResultOptions | None = None,
    backend: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    require_signature: Sequence[Path] = (),
    max_bad_images: int = 0,
    force: bool = False,
    progress: Progress = SILENT,
    each: Callable[[dict[str, Any]], None] | None = None,
    care: ReadWithCare | None = None,
    on_uncalibrated: Callable[[Path], None] = lambda _bundle: None,
) -> None:
    """Judge images and videos; add records to ``records``, and reasons of skipped ones to ``bad``.

    Images whose verdicts are to be read with care are added to ``care``; ``on_uncalibrated`` is
    called with each bundle that has no threshold. ``results`` are further files, see
    :mod:`kdx.workflows.result_files`.

    With other bundles, a record is one bundle's verdict on an image, and names the bundle.
    """
    bundles = _bundle_names([bundle, *also])
    pictures = Pictures(paths, progress)
    paths = pictures.paths
    keys = require_signature or None
    with ExitStack() as held:
        group = held.enter_context(
            _load(bundles, backend, threads, precision, shared_teacher=shared_teacher, require_signature=keys)
        )
        for name, path in bundles.items():
            if group[name].threshold is None:
                on_uncalibrated(path)
        whole = {"overlay": overlay is not None, "maps": results and results.maps, "masks": results and results.masks}
        for name in group:
            require_whole_maps(group[name].input, {option: bool(asked) for option, asked in whole.items()})
            require_reader(group[name].input)
        trained = [] if care is None else [images_trained_on(path) for path in bundles.values()]
        maps = None if overlay is None else HeatMaps(overlay, paths, list(bundles), force=force)
        files = None
        if results is not None:
            require_thresholds(results, group)
            texts = {name: _texts(overlay, name, group[name]) for name in bundles}
            files = held.enter_context(
                ResultFiles(results, paths, list(bundles), records, bad, texts=texts, force=force, size=pictures.size)
            )
        if maps is not None:
            maps.begin()
        area = (results.min_area if results else 0.0) if regions is None else regions.min_area
        size = None if regions is None else regions.pixel_size_um
        for number, path in enumerate(track(progress, paths, "judging", len(paths)), 1):
            try:
                judged = list(_verdicts(group, pictures, path, area, size))
            except ImageError as error:
                skip_bad(path, error, bad, max_bad_images, len(paths) - number)
                if each is not None:
                    each({"image": str(path), **pictures.fields(path), "error": error.as_dict()})
                continue
            if care is not None and path in pictures.seen_in_grey:
                care.colour.append(path)
            if care is not None and pictures.is_file(path) and _is_of(trained, path):
                care.trained.append(path)
            is_labelled = all(locates_defects(verdict) for _, _, verdict, _ in judged)
            if care is not None and results is not None and results.needs_threshold and not is_labelled:
                care.unlabelled.append(path)
            for name, image, verdict, found in judged:
                record = {**({"bundle": name} if also else {}), "image": str(path), **pictures.fields(path)}
                record |= verdict_fields(verdict)
                record |= {"backend": group[name].backend.name, "precision": group[name].precision}
                if group[name].threshold_by_hand is not None:
                    record["threshold_by_hand"] = group[name].threshold_by_hand
                if regions is not None and image is None:
                    record["regions"] = None if found is None else [asdict(region) for region in found]
                elif regions is not None:
                    record["regions"] = _regions(
                        group[name], verdict, place_of(path, group[name], pictures.size), regions
                    )
                if maps is not None and image is not None:
                    record["overlay"] = str(maps.add(path, name, image, verdict, group[name]))
                    record["overlay_scale"] = "threshold" if verdict.pixel_threshold else "own maximum"
                if files is not None:
                    record |= files.add(path, name, verdict, group[name], found)
                records.append(record)
                if each is not None:
                    each(record)
    if bad and len(bad) == len(paths):
        raise DataError(
            f"no image was judged: {number_of(len(bad), '[image cannot be read|images cannot be read]')}",
            received=next(iter(bad.values())),
            fix="name other images; `max_bad_images` is for single ones among others",
        )


def _is_of(known: Sequence[KnownImages], path: Path) -> bool:
    """Return whether a file is one of the known ones; a copy with other bytes is not looked for."""
    sha256 = sha256_if_readable(path)
    return any(sha256 in images for images in known)


def _texts(overlay: Path | None, bundle: str, detector: Detector) -> list[str]:
    """Return what every row of a bundle's verdicts has, beside the files of its image."""
    return [detector.threshold_by_hand or "", *([] if overlay is None else [str(overlay / bundle)])]


def _regions(
    detector: Detector, verdict: Verdict, place: MapPlace, options: RegionOptions
) -> list[dict[str, Any]] | None:
    """Return the regions of a verdict in pixels of its image; None if its answer is invalid."""
    if verdict.reason is not None and verdict.reason.is_of_answer:
        return None
    area, length = options.min_area, options.pixel_size_um
    found = detector.regions(verdict, min_area=area, pixel_size_um=length, image_size=(place.height, place.width))
    return [asdict(region) for region in found]


def _bundle_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Name each bundle after its folder; bundles of one name keep the folder around them too.

    Raises:
        OptionError: A bundle is named twice: each image would have the same verdict twice.
    """
    real = [os.path.realpath(path) for path in paths]
    twice = [path for path, resolved in zip(paths, real, strict=True) if real.count(resolved) > 1]
    if twice:
        raise OptionError("a bundle is named twice", received=f"`also={twice[-1]}`", fix="name each bundle once")
    stems = [folder_name(path).removesuffix(".kdx") for path in paths]
    found: dict[str, Path] = {}
    for path, stem in zip(paths, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{path.resolve().parent.name}-{stem}"
        while name in found:
            name += "_"
        found[name] = path
    return found


def _load(
    bundles: dict[str, Path],
    backend: str,
    threads: int | None,
    precision: str | None,
    *,
    shared_teacher: bool,
    require_signature: Sequence[Path] | None,
) -> DetectorGroup:
    keys = require_signature
    if len(bundles) > 1:
        shared = shared_teacher or None
        return load_many(bundles, backend, threads, precision, shared_teacher=shared, require_signature=keys)
    if shared_teacher:
        raise OptionError("`shared_teacher` needs several bundles", fix="name the others: `also=OTHER.kdx`")
    return DetectorGroup(
        {
            name: load(path, backend, threads, precision=precision, require_signature=keys)
            for name, path in bundles.items()
        }
    )


def _verdicts(
    group: DetectorGroup, pictures: Pictures, path: Path, min_area: float, pixel_size_um: float | None
) -> Iterator[tuple[str, NDArray[np.uint8] | None, Verdict, list[Region] | None]]:
    """Yield name, image and verdict of each detector; a file is read once for each input.

    Where a file is read in bands, there is no image, but the regions.
    """
    inputs: dict[InputSpec, list[str]] = {}
    for name in group:
        inputs.setdefault(group[name].input, []).append(name)
    in_bands = [name for name in group if pictures.is_file(path) and is_read_in_bands(group[name], path)]
    images = {spec: pictures.read(path, spec) for spec, names in inputs.items() if not set(names) & set(in_bands)}
    verdicts = {name: verdict for spec in images for name, verdict in group(images[spec], inputs[spec]).items()}
    for name in group:
        if name in in_bands:
            judged = group[name].judge_file(path, min_area=min_area, pixel_size_um=pixel_size_um)
            yield name, None, judged.verdict, judged.regions
        else:
            yield name, images[group[name].input], verdicts[name], None


def require_apart(output: Path | None, images: list[Path], *, option: str = "overlay") -> None:
    """Refuse pictures in a bundle, and among images: the next command would take them for parts.

    Where single files are named, the folder around them counts too, unless it is the one that the
    user works in.

    Args:
        output: The folder of heat maps, or of maps and masks.
        images: The image files and folders.
        option: The parameter that names the folder.
    """
    if output is None:
        return
    what = "heat maps" if option == "overlay" else "the results"
    require_outside_bundles(output, option)
    real = {image: Path(os.path.realpath(image)) for image in images}  # Path.resolve fails for a link to itself
    around = {path if path.is_dir() else path.parent for path in real.values()}
    named = {image.resolve() for image in images if image.is_dir()}
    for folder in sorted(around - ({Path.cwd()} - named)):
        if output.resolve().is_relative_to(folder):
            raise among_images(what, option, output, folder)


def left_behind(overlay: Path | None, folder: Path | None, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a call that was stopped has written, a line for each folder."""
    if not records:
        return []
    lines = []
    if overlay is not None:
        maps = number_of(len(records), "heat [map was|maps were] written")
        lines.append(f"{maps} to {overlay}/ before that: `force=True` writes them again")
    if folder is not None:
        images = number_of(len({record["image"] for record in records}), "[image|images] only")
        lines.append(f"{folder}/ has the results of {images}: `force=True` writes all again")
    return lines


def without_scale(records: Sequence[Mapping[str, Any]]) -> str:
    """Return what to know of heat maps without a threshold; empty if there are none."""
    count = sum(record["overlay_scale"] == "own maximum" for record in records)
    if not count:
        return ""
    return (
        number_of(count, "heat [map has|maps have] no threshold")
        + ": each is coloured up to its own maximum, so the hottest place of a good part is as bright as a "
        "defect's. Compare scores, or calibrate first"
    )


def how_to_calibrate(bundle: Path) -> str:
    """Return how a bundle, or a run, gets a threshold."""
    if is_run(bundle):
        run = shlex.quote(str(run_to_export(bundle)))
        return f"Export it first: kdx export {run} -o NAME.kdx, then kdx calibrate NAME.kdx DATA"
    return f"Calibrate with kdx calibrate {shlex.quote(str(bundle))} DATA"


def expand(images: list[Path], left_out: LeftOut) -> list[Path]:
    """Return the files that were named and those in the folders that were, each once.

    The masks of a folder in the layout of MVTec AD are left out: they show no part.

    Raises:
        DataError: Nothing has one of the names, or a folder holds no images.
    """
    paths: dict[Path, None] = {}
    for image in images:
        if not checked_is_dir(image) and not os.path.lexists(image):
            raise DataError(
                f"there is no file or folder '{image}'",
                expected="images, videos, or folders of them",
                fix="check the name; a pattern such as *.png stands for files where no quotes are around it and the "
                "shell replaces it (cmd.exe does not: name the folder)",
            )
        named = [image] if not checked_is_dir(image) else _in_folder(image, left_out)
        for path in named:
            if path in paths:
                left_out.add("named_twice", str(path))
            paths[path] = None
    return list(paths)


def _in_folder(image: Path, left_out: LeftOut) -> list[Path]:
    found = [image / name for name in walk_parts(image, left_out)]
    if not found:
        raise DataError(f"no images were found in '{image}'", expected="image files", received=listing(image))
    return found
