"""Heat maps: what is hot is marked, on the map's own scale, and what was not seen stays dark."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kdx.decision.overlay import _CAPTION_HEIGHT, caption_lines, heat_layer, render_overlay
from kdx.decision.verdict import Decision, Verdict
from kdx.imaging.field_of_view import FieldOfView

SIDE = 320  # large enough not to be enlarged


def heat_of(verdict: Verdict, field_of_view: float = 1.0) -> np.ndarray:
    image = np.full((SIDE, SIDE, 1), 128, np.uint8)
    sheet = np.asarray(render_overlay(image, verdict, "part.png", FieldOfView(field_of_view)))
    return sheet[_CAPTION_HEIGHT:, SIDE + 4 :].astype(int)


def spot() -> np.ndarray:
    anomaly_map = np.zeros((32, 32), np.float32)
    anomaly_map[8:16, 8:16] = 1.0
    return anomaly_map


def is_coloured(pixels: np.ndarray) -> np.ndarray:
    return np.ptp(pixels, axis=-1) > 30


def test_the_scale_is_the_maps_own_whatever_the_score_is_made_of() -> None:
    # A summed score is thousands of times the map's values.
    verdict = Verdict(Decision.DEFECTIVE, 5000.0, 4000.0, spot(), pixel_threshold=0.5)
    coloured = is_coloured(heat_of(verdict))
    assert coloured[90:150, 90:150].all()
    assert not coloured[200:, 200:].any()
    cold = Verdict(Decision.GOOD, 100.0, 4000.0, 0.1 * spot(), pixel_threshold=0.5)
    assert not is_coloured(heat_of(cold)).any()


def test_without_a_threshold_the_hottest_place_is_marked() -> None:
    coloured = is_coloured(heat_of(Verdict(Decision.UNDECIDED, 1.0, None, 1e-6 * spot())))
    assert coloured[100:140, 100:140].all()


def test_a_map_without_a_threshold_says_that_its_scale_is_its_own(monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, at, text, *_: said.append(text))
    for scale in (1e-6, 1.0):
        heat_of(Verdict(Decision.UNDECIDED, 1.0, None, scale * spot()))
    heat_of(Verdict(Decision.GOOD, 1.0, 2.0, spot(), pixel_threshold=0.5))
    own = "no threshold: colours up to this map's own maximum, "
    assert said[1::2] == [f"{own}1e-06   part.png", f"{own}1   part.png", "part.png"]


def test_the_scale_of_a_map_that_is_not_finite_is_that_of_the_rest() -> None:
    broken = spot()
    broken[20, 20] = np.nan
    assert is_coloured(heat_of(Verdict(Decision.UNDECIDED, 1.0, None, broken))[200:205, 200:205]).all()
    lines = caption_lines(Verdict(Decision.UNDECIDED, 1.0, None, broken), "part.png", 1.0)
    assert lines[1].endswith("maximum, 1   part.png")


def test_what_the_detector_does_not_see_is_dark_and_the_map_lies_in_the_rest() -> None:
    heat = heat_of(Verdict(Decision.DEFECTIVE, 1.0, 0.5, spot(), pixel_threshold=0.5), field_of_view=0.5)
    assert (heat[:78] < 60).all()
    assert (heat[:, 244:] < 60).all()
    centre = heat[82:238, 82:238]
    assert (centre[100:, 100:] == 128).all()
    assert is_coloured(centre[45:70, 45:70]).all()  # 8/32 to 16/32 of the 160 pixels that are seen


def test_the_layer_alone_makes_the_same_picture() -> None:
    verdict = Verdict(Decision.DEFECTIVE, 1.0, 0.5, spot(), pixel_threshold=0.4)
    layer = Image.fromarray(heat_layer(verdict.anomaly_map, (SIDE, SIDE), 0.4, FieldOfView(0.8)))
    below = Image.new("RGBA", (SIDE, SIDE), (128, 128, 128, 255))
    both = np.asarray(Image.alpha_composite(below, layer))[..., :3].astype(int)
    assert np.abs(both - heat_of(verdict, 0.8)).max() <= 2  # of 255: alpha has eight bits


@pytest.mark.parametrize(
    ("height", "width", "sheet"),
    [
        (64, 64, (2 * 320 + 4, 320)),
        (64, 128, (2 * 640 + 4, 320)),
        (32, 1024, (2 * 2048 + 4, 64)),  # the longest side is the limit
        (32, 4096, (2 * 4096 + 4, 32)),
        (4096, 32, (2 * 320 + 4, 4096)),  # the caption has the width that it needs
        (400, 2100, (2 * 2100 + 4, 400)),
    ],
)
def test_a_small_side_enlarges_no_image_beyond_bounds(height, width, sheet) -> None:
    verdict = Verdict(Decision.DEFECTIVE, 1.0, 0.5, spot(), pixel_threshold=0.4)
    drawn = render_overlay(np.full((height, width, 1), 128, np.uint8), verdict, "part.png")
    assert drawn.size == (sheet[0], sheet[1] + _CAPTION_HEIGHT)


def test_the_command_says_which_heat_maps_have_no_threshold(cli, raw_bundle, tiny_bundle, dataset, tmp_path) -> None:
    images = sorted((dataset / "test/good").iterdir())[:2]
    said = cli("predict", raw_bundle, *images, "--overlay", tmp_path / "raw")
    assert "2 heat maps have no threshold" in said.stderr
    assert "coloured up to its own maximum" in said.stderr
    (record,) = cli("predict", raw_bundle, images[0], "--overlay", tmp_path / "json", "--json").lines
    assert record["overlay_scale"] == "own maximum"
    assert "heat maps have no threshold" not in cli("predict", tiny_bundle, *images, "--overlay", tmp_path / "a").stderr
    (record,) = cli("predict", tiny_bundle, images[0], "--overlay", tmp_path / "b", "--json").lines
    assert record["overlay_scale"] == "threshold"
