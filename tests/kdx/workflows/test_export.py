"""Options of an export that contradict each other."""

from __future__ import annotations

import pytest

from kdx.errors import OptionError
from kdx.imaging.tiling import TileRequest
from kdx.progress import SILENT
from kdx.workflows.export import export_run


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"input_size": (64, 64)}, "give `frame` and `tile`"),
        ({"max_batch": 4}, "give `tile_batch`"),
    ],
)
def test_options_of_whole_images_are_refused_for_tiles(tiny_run, tmp_path, options, fix):
    tiles = TileRequest(frame=(128, 128), tile=64)
    with pytest.raises(OptionError, match="is for whole images") as caught:
        export_run(tiny_run, tmp_path / "tile.kdx", progress=SILENT, tiles=tiles, **options)
    assert caught.value.fix == fix
    assert not (tmp_path / "tile.kdx").exists()
