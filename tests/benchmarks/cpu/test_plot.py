"""The plot of the CPU benchmark."""

from __future__ import annotations

import struct

import pytest


def test_the_picture_is_written(record, tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'kdx[fit]'")
    from benchmarks.cpu.plot import plot_scaling

    plot_scaling(record["found"], tmp_path / "scaling")
    png = (tmp_path / "scaling.png").read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert png.startswith(b"\x89PNG")
    assert min(width, height) > 150
    assert (tmp_path / "scaling.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
