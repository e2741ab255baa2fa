"""One trained pair, exported for different cameras, gives the same verdicts."""

from __future__ import annotations

import numpy as np
import pytest

import kdx
from kdx.imaging.resampling import resize_image
from tests.images import solar_cells

# Outside the graph a resized image is rounded to uint8; half a grey level moves a score by less
# than this.
ROUNDING = 0.02


@pytest.fixture(scope="module")
def colour_run(cli, dataset, tiny_options, tmp_path_factory):
    run = tmp_path_factory.mktemp("colour") / "run"
    cli("train", dataset, "-o", run, "--epochs", 1, "--channels", 3, *tiny_options)
    return run


@pytest.fixture(scope="module")
def rgb(cli, colour_run, tmp_path_factory):
    bundle = tmp_path_factory.mktemp("rgb") / "rgb.kdx"
    cli("export", colour_run, "-o", bundle)
    return bundle


@pytest.mark.slow
def test_a_bgr_camera_sees_the_same(cli, colour_run, rgb, tmp_path) -> None:
    cli("export", colour_run, "-o", tmp_path / "bgr.kdx", "--channel-order", "bgr")
    frames = solar_cells(4, (64, 64))
    with kdx.load(rgb) as of_rgb, kdx.load(tmp_path / "bgr.kdx") as of_bgr:
        expected = of_rgb.outputs(frames).scores
        np.testing.assert_allclose(of_bgr.outputs(frames[..., ::-1]).scores, expected, rtol=1e-4)
        assert not np.allclose(of_bgr.outputs(frames).scores, expected, rtol=1e-3)
    # Golden images are files, and files are RGB whatever the camera's arrays are.
    for name in of_rgb_names(rgb):
        assert (rgb / "golden" / name).read_bytes() == (tmp_path / "bgr.kdx/golden" / name).read_bytes()
    cli("verify", tmp_path / "bgr.kdx")


def of_rgb_names(bundle) -> list[str]:
    return kdx.open_bundle(bundle).manifest.golden


@pytest.mark.slow
def test_a_camera_of_another_size_is_resized_in_the_graph(cli, colour_run, rgb, tmp_path) -> None:
    cli("export", colour_run, "-o", tmp_path / "camera.kdx", "--input-size", "120x200")
    frames = solar_cells(4, (120, 200))
    with kdx.load(rgb) as small, kdx.load(tmp_path / "camera.kdx") as camera:
        assert (camera.input.height, camera.input.width, camera.input.fixed_size) == (120, 200, True)
        inside = camera.outputs(frames)
        outside = small.outputs([resize_image(frame, 64, 64) for frame in frames])
        assert inside.maps.shape == outside.maps.shape
        np.testing.assert_allclose(inside.scores, outside.scores, rtol=ROUNDING)
        with pytest.raises(kdx.KdxError, match="wrong size"):
            camera(solar_cells(1, (64, 64))[0])


@pytest.mark.parametrize("text", ["120", "axb", "0x64", "64x200000"])
def test_an_impossible_size_is_refused(cli, colour_run, tmp_path, text) -> None:
    assert "--input-size" in cli("export", colour_run, "-o", tmp_path / "x.kdx", "--input-size", text, code=2).stderr


def test_an_unknown_channel_order_is_refused(cli, colour_run, tmp_path) -> None:
    options = ("--channel-order", "grb")
    assert "rgb, bgr" in cli("export", colour_run, "-o", tmp_path / "x.kdx", *options, code=2).stderr
