"""Golden images: real images on which every later artefact is compared with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from kd_train.data.image_records import ImageRecord
from kdx.bundle.bundle import Bundle
from kdx.errors import ImageError
from kdx.folders.data_folder import ImageFolder, TestImage
from kdx.imaging.images import InputSpec, encode_png, read_header, read_image
from kdx.imaging.masks import read_mask
from kdx.imaging.samples import evenly
from kdx.remarks import Remark, remark

_GOOD = 4
_DEFECTIVE = 4
_DEFECTIVE_NAME = "defective"


def choose_golden(
    folder: ImageFolder, held_out: Sequence[ImageRecord], spec: InputSpec, *, tiles: bool
) -> dict[str, bytes]:
    """Choose golden images; return PNG files of the input's size by name.

    The choice is of held-out good images, evenly spread, and of one image for each defect type if
    the folder has a test split. Where images are judged in tiles, the tile around the defect is
    taken if there is a mask, otherwise the tile in the middle.
    """
    good = [(record.path, None) for record in evenly(held_out, _GOOD)]
    types = sorted({image.defect_type for image in folder.test if image.is_defective})
    first = [next(image for image in folder.test if image.defect_type == kind) for kind in types]
    defective = [(image.path, image) for image in evenly(first, _DEFECTIVE)]
    golden: dict[str, bytes] = {}
    for kind, chosen in (("good", good), (_DEFECTIVE_NAME, defective)):
        for path, image in chosen:
            try:
                pixels = _tile(path, image, spec) if tiles else read_image(path, spec)
            except ImageError:
                continue  # a damaged test image is reported where it is evaluated
            golden[f"{len(golden)}-{kind}.png"] = encode_png(pixels)
    return golden


def golden_remarks(bundle: Bundle, test: Sequence[TestImage]) -> list[Remark]:
    """Return a remark on the test images that decided precisions; see :func:`golden_among`."""
    if not bundle.manifest.variants:
        return []  # nothing was chosen on them
    text = "of these [is a golden image, which|are golden images, which] decided precisions and layers at export"
    return remark("golden", text, golden_among(bundle, test))


def golden_among(bundle: Bundle, test: Sequence[TestImage]) -> list[Path]:
    """Return the defective test images that are golden images of a bundle.

    Images are compared by their pixels. Golden images decided which layers of INT8 stay in FP32,
    and which variants were written, so figures that include them are slightly optimistic. They are
    not recognised if the bundle was exported for another camera size.
    """
    manifest = bundle.manifest
    golden = zip(manifest.golden, bundle.golden().images, strict=True)
    wanted = {image.tobytes() for name, image in golden if name.endswith(f"-{_DEFECTIVE_NAME}.png")}
    found: list[Path] = []
    for image in test:
        if len(found) == len(wanted):
            break
        if not image.is_defective:
            continue
        try:
            tiles = manifest.tiling is not None
            pixels = _tile(image.path, image, manifest.input) if tiles else read_image(image.path, manifest.input)
        except ImageError:
            continue  # it was not scored either
        if pixels.tobytes() in wanted:
            found.append(image.path)
    return found


def _tile(path: Path, image: TestImage | None, spec: InputSpec) -> NDArray[np.uint8]:
    width, height, _ = read_header(path)
    whole = read_image(path, msgspec.structs.replace(spec, height=height, width=width))
    centre = height / 2, width / 2
    if image is not None and image.mask is not None:
        inside = np.argwhere(read_mask(image.mask))
        centre = tuple(inside.mean(axis=0)) if len(inside) else centre
    row, column = (
        int(np.clip(middle - part / 2, 0, full - part))
        for middle, part, full in zip(centre, (spec.height, spec.width), (height, width), strict=True)
    )
    return np.ascontiguousarray(whole[row : row + spec.height, column : column + spec.width])
