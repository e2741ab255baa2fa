"""The plots of the CPU benchmark."""

from __future__ import annotations

import struct

import pytest


def test_pictures_are_written(record, tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'kdx[fit]'")
    from benchmarks.cpu.plot import plot_methods, plot_scaling

    for draw in (plot_methods, plot_scaling):
        draw(record["found"], tmp_path / draw.__name__)
        png = (tmp_path / f"{draw.__name__}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG")
        assert min(width, height) > 150
        assert (tmp_path / f"{draw.__name__}.svg").read_text().rstrip().endswith("</svg>")
