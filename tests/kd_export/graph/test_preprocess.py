from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from kd_export.graph.preprocess import Preprocess
from kdx.imaging.images import InputSpec
from tests.images import solar_cells

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Values reach 3; float32.
TOLERANCE = 1e-5


def by_hand(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    x = image.permute(0, 3, 1, 2).double() / 255
    x = x.expand(-1, 3, -1, -1)
    x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


@pytest.mark.parametrize("camera", [(96, 96), (120, 80), (50, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_is_resize_then_normalisation(camera, channels) -> None:
    images = torch.from_numpy(solar_cells(2, camera, channels))
    spec = InputSpec(height=camera[0], width=camera[1], channels=channels)
    ours = Preprocess(spec, (96, 96), MEAN, STD, scale_is_folded=False)(images)
    torch.testing.assert_close(ours.double(), by_hand(images, (96, 96)), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("size", [(32, 48), (24, 40)])
@pytest.mark.parametrize("resize_to", [None, (48, 72)])
def test_a_window_is_judged_as_if_the_camera_sent_no_more(size, resize_to) -> None:
    images = torch.from_numpy(solar_cells(2, (80, 96)))
    spec = InputSpec(height=80, width=96, crop=(30, 20, 48, 32))
    options = {"scale_is_folded": False, "resize_to": resize_to}
    ours = Preprocess(spec, size, MEAN, STD, **options)(images)
    cut = images[:, 20:52, 30:78]
    torch.testing.assert_close(ours, Preprocess(InputSpec(height=32, width=48), size, MEAN, STD, **options)(cut))


def test_bgr_images_come_out_as_rgb() -> None:
    images = torch.from_numpy(solar_cells(2, (64, 64)))
    rgb = Preprocess(InputSpec(height=64, width=64), (64, 64), MEAN, STD, scale_is_folded=False)(images)
    spec = InputSpec(height=64, width=64, channel_order="bgr")
    bgr = Preprocess(spec, (64, 64), MEAN, STD, scale_is_folded=False)(images.flip(-1))
    torch.testing.assert_close(bgr, rgb)
    assert not torch.allclose(rgb[:, 0], rgb[:, 2])


def test_a_dark_frame_is_dark() -> None:
    # A range guessed from the data would take values up to 1 for a frame in [0, 1].
    dark = torch.ones(1, 32, 32, 3, dtype=torch.uint8)
    ours = Preprocess(InputSpec(height=32, width=32), (32, 32), MEAN, STD, scale_is_folded=False)(dark)
    assert ours[0, 0, 0, 0].item() == pytest.approx((1 / 255 - MEAN[0]) / STD[0], abs=TOLERANCE)
