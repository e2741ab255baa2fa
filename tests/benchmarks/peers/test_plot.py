"""The peers benchmark as points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.peers.plot import plot


def test_the_plot_is_a_white_png_and_an_svg(tmp_path: Path, record: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    plot(record["found"], tmp_path / "peers")
    with Image.open(tmp_path / "peers.png") as image:
        image.load()
        assert image.format == "PNG"
        assert 800 <= image.width <= 1000
        assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    assert "<svg" in (tmp_path / "peers.svg").read_text(encoding="utf-8")


def test_a_plot_of_failures_alone_is_no_failure(tmp_path: Path, record: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib")
    found = record["found"]
    found["rows"] = [one for one in found["rows"] if one["error"]]
    plot(record["found"], tmp_path / "peers")
    assert (tmp_path / "peers.png").stat().st_size > 0
