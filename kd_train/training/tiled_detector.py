"""The detector of tiles of a trained pair, and the plan by which frames are cut into tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from kd_export.graph import FusedDetector
from kd_export.onnx.halo import choose_halo, edge_errors, require_tileable
from kd_train.models.pair import Pair
from kd_train.training.run_config import RunConfig
from kd_train.training.run_folder import Run
from kd_train.training.trained_pair import fuse
from kdx.errors import DataError, OptionError
from kdx.imaging.image_size import say_size
from kdx.imaging.images import ChannelOrder, InputSpec, read_header, read_image
from kdx.imaging.tiling import TileRequest, Tiling, plan_tiles
from kdx.remarks import shorten
from kdx.text import number_of

# A difference of a tenth in size hardly changes what networks compute.
SCALE_TOLERANCE = 0.1
_BATCH, _MOST = 8, 1024  # tiles in a call of the networks: the default, and the maximum


def are_tiles_asked(config: RunConfig, options: TileRequest) -> bool:
    """Return whether frames are cut into tiles.

    Raises:
        OptionError: A value is out of range, or the frame's or the tile's size is missing.
    """
    for name, value, low, high in (("tile", options.tile, 32, 4096), ("tile_batch", options.batch, 1, _MOST)):
        if value is not None and not low <= value <= high:
            raise OptionError(f"`{name}` is out of range", expected=f"{low} to {high}", received=str(value))
    frame, tile = options.frame or config.frame, options.tile or config.tile
    if frame and tile:
        return True
    if options.bands:
        raise OptionError("`bands` are of frames that are cut into tiles", fix="give `frame` and `tile`")
    if options.batch is not None and not (options.frame or options.tile or config.tile):
        raise OptionError(
            "`tile_batch` has no effect without tiles", fix="leave it out; `max_batch` is the number of whole images"
        )
    if options.frame or options.tile or options.overlap is not None or config.tile:
        raise OptionError(
            "tiles need the frame's size and the tile's",
            expected="`frame=2048x2448` and `tile=256`",
            received="no `frame`" if not frame else "no `tile`",
        )
    return False


def fuse_tiles(
    run: Run, pair: Pair, options: TileRequest, channel_order: ChannelOrder = "rgb"
) -> tuple[FusedDetector, Tiling]:
    """Return the detector of a run's pair for tiles, and the plan by which frames are cut.

    Raises:
        OptionError: The pair cannot judge tiles, or the tiles do not fit the frame.
    """
    config = run.config
    frame, tile = options.frame or config.frame, options.tile or config.tile
    if frame is None or tile is None:
        raise OptionError("tiles need the frame's size and the tile's", expected="`frame=2048x2448` and `tile=256`")
    size = config.recipe.size
    _require_scale(config, tile)
    require_tileable(pair.spec, (tile, tile), size, config.recipe.resize_to)
    spec = run.input_for((tile, tile), channel_order)
    detector = fuse(config, pair, spec).without_border_weights()
    any_size = msgspec.structs.replace(spec, fixed_size=False)
    images = [read_image(path, any_size) for path in run.golden_files()]
    errors = edge_errors(pair, detector, images, config.mean, config.std)
    scale = tile // size[0]
    step = max(detector.strides)
    halo = choose_halo(errors, step)
    overlap = (2 * halo + step) * scale if options.overlap is None else options.overlap
    halo = max(0, min(halo, overlap // scale // 2))
    tiling = plan_tiles(
        frame,
        (tile, tile),
        overlap=overlap,
        halo=halo * scale,
        step=step * scale,
        batch=options.batch or _BATCH,
        seam=float(errors[halo]),
    )
    if options.bands:
        tiling = msgspec.structs.replace(tiling, bands=True)
    tiling.require_fits((tile, tile), size)
    return detector, tiling


def require_large_enough(paths: Sequence[Path], spec: InputSpec) -> None:
    """Check that a tile can be cut from each image, or that an image has about the size of a tile.

    Args:
        paths: The files.
        spec: A tile.

    Raises:
        DataError: An image is smaller; enlarged to a tile, it would show parts at another scale.
        ImageError: A file cannot be read.
    """
    sides = {path: read_header(path)[:2] for path in paths}
    small = [str(path) for path, each in sides.items() if min(each) < spec.height and not _are_close(each, spec.height)]
    if small:
        raise DataError(
            f"{number_of(len(small), '[image is|images are]')} smaller than a tile: {shorten(small)}",
            expected=f"at least {spec.height} × {spec.width} pixels",
            fix="choose a smaller `tile`, or train on larger images",
        )


def _require_scale(config: RunConfig, tile: int) -> None:
    """Check that tiles show parts at about the scale of the training images, along both sides."""
    trained, size = config.input, config.recipe.size
    if size[0] != size[1]:
        raise OptionError(
            "tiles are squares, and so is what the networks see of them",
            expected="a pair that was trained on squares",
            received=f"a run of `image_size={say_size(size)}`",
            fix=f"train on tiles: kdx train DATA --tile {tile}",
        )
    sides = (trained.height, trained.width)
    if not trained.fixed_size or _are_close(sides, tile):
        return
    whose = "the size of the training images" if config.tile is None else "the size of those trained on"
    other = f"train on tiles: kdx train DATA --tile {tile}"
    raise OptionError(
        "the pair was trained at another scale",
        expected=f"tiles of about {trained.height} × {trained.width} pixels, {whose}",
        received=f"`tile={tile}`",
        fix=other if config.tile is None else f"leave out `tile`, or {other}",
    )


def _are_close(sides: Sequence[int], tile: int) -> bool:
    return all(abs(side / tile - 1) < SCALE_TOLERANCE for side in sides)
