"""The halo is as wide as a tile's map is wrong, and no wider."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_export.graph import Combine, Distance, FusedDetector, Join, MapSpec, PairSpec, ScoreRule, Tap
from kd_export.onnx.halo import choose_halo, edge_errors, require_tileable
from kdx.errors import OptionError
from kdx.imaging.images import InputSpec
from kdx.imaging.tiling import Stitcher, plan_tiles
from kdx.runtime.tiled import Tiled
from kdx.runtime.torch.eager import TorchEager
from tests.images import solar_cells
from tests.pairs import fuse_pair, make_pair

SIDE = 64


class OneConvolution(nn.Module):
    """A pair that sees a known number of pixels to each side."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.teacher, self.student = (
            nn.Conv2d(3, 4, 2 * radius + 1, padding=radius, bias=False) for _ in ("teacher", "student")
        )

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(self.teacher(x), self.student(x))]


@pytest.mark.parametrize("radius", [1, 3, 7])
def test_maps_are_wrong_exactly_as_far_as_the_network_sees(radius):
    tap = Tap("only", Distance.HALF_SQUARED_L2)
    spec = PairSpec((MapSpec((tap,), Combine.SUM, blur_sigma=0.0),), score=ScoreRule.MAX)
    mean = std = (0.4, 0.4, 0.4)  # zero padding means this grey
    pair = OneConvolution(radius)
    detector = FusedDetector(pair, spec, InputSpec(height=SIDE, width=SIDE), (SIDE, SIDE), mean, std)
    errors = edge_errors(pair, detector, solar_cells(2, (SIDE, SIDE)), mean, std)
    assert len(errors) == SIDE // 2
    assert errors[radius - 1] > 1e-3
    assert errors[radius:].max() < 1e-5  # FP32
    assert (np.diff(errors) <= 0).all()


class OneCell(nn.Module):
    """A pair that sees each cell of 8 × 8 pixels by itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.teacher, self.student = (nn.Conv2d(3, 4, 8, stride=8, bias=False) for _ in ("teacher", "student"))

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(self.teacher(x), self.student(x))]


@pytest.mark.parametrize("side", [48, 56])
@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_are_compared_on_the_grid_on_which_frames_are_cut(side, scale):
    spec = PairSpec((MapSpec((Tap("only", Distance.HALF_SQUARED_L2),), Combine.SUM),), score=ScoreRule.MAX)
    mean = std = (0.4, 0.4, 0.4)
    pair, tile = OneCell(), (scale * side, scale * side)
    detector = FusedDetector(pair, spec, InputSpec(height=tile[0], width=tile[1]), (side, side), mean, std)
    errors = edge_errors(pair, detector, solar_cells(2, tile), mean, std)
    # Resampling changes no other cell than the first, which is interpolated up to the centre of the
    # second.
    assert errors[12:].max() < 1e-5  # FP32


def test_the_halo_is_the_first_step_that_is_right():
    errors = np.linspace(0.2, 0.0, 32)
    assert choose_halo(np.zeros(32), 8) == 0
    assert choose_halo(errors, 1) == 16  # 1 % is reached behind what may be thrown away
    assert choose_halo(errors / 15, 1) == 8
    assert choose_halo(errors / 20, 1) == 0
    assert choose_halo(np.where(np.arange(32) < 5, 0.2, 0.005), 4) == 8
    # A quarter of the tile is the most that is thrown away at an edge.
    assert choose_halo(np.ones(32), 8) == 16
    assert choose_halo(np.ones(32), 10) == 10


@pytest.mark.parametrize("method", ["stpm", "reduced-student", "dskd", "dual-loc", "dual-det", "reverse-distillation"])
def test_pairs_whose_score_is_their_maps_maximum_judge_tiles(method):
    require_tileable(make_pair(method, "test_resnet").spec, (SIDE, SIDE), (SIDE, SIDE), None)


@pytest.mark.parametrize(
    ("method", "choices"), [("mixed-teacher", {}), ("dual", {}), ("stpm", {"score": "sum"})], ids=str
)
def test_pairs_that_look_at_the_whole_image_do_not(method, choices):
    spec = make_pair(method, "test_resnet", **choices).spec
    assert spec.score is not ScoreRule.MAX or spec.join not in {Join.SINGLE, Join.SCORE_FIRST}
    with pytest.raises(OptionError, match="cannot judge tiles"):
        require_tileable(spec, (SIDE, SIDE), (SIDE, SIDE), None)


@pytest.mark.parametrize(
    ("tile", "resize_to", "said"), [(SIDE, (72, 72), "cuts its input"), (SIDE + 8, None, "does not fit the networks")]
)
def test_tiles_with_gaps_or_between_pixels_are_refused(tile, resize_to, said):
    spec = make_pair("stpm", "test_resnet").spec
    with pytest.raises(OptionError, match=said):
        require_tileable(spec, (tile, tile), (SIDE, SIDE), resize_to)


# Seams, on a real image


TILE = 192


@pytest.fixture(scope="module")
def pair():
    return make_pair("stpm", "resnet18", "layer1,layer2", sigma=2.0)


@pytest.fixture(scope="module")
def detector(pair):
    return fuse_pair(pair, InputSpec(height=TILE, width=TILE), TILE)


@pytest.fixture(scope="module")
def texture():
    """A cell, with a scratch that stands out whatever the networks are."""
    image = solar_cells(1, (192, 512))[0].copy()
    image[118:126, 250:266] = (255, 0, 255)
    return image


def judged(detector, frame: np.ndarray, halo: int) -> np.ndarray:
    step = max(detector.strides)
    plan = plan_tiles(frame.shape[:2], (TILE, TILE), overlap=2 * halo + step, halo=halo, step=step)
    stitcher = Stitcher(plan, (TILE, TILE), (TILE, TILE))
    with Tiled(TorchEager(detector, threads=1), stitcher) as backend:
        return backend.run(frame[None]).maps[0]


@pytest.fixture(scope="module")
def halo(pair, detector, texture):
    images = [texture[:, column : column + TILE] for column in (0, 128, 200)]
    errors = edge_errors(pair, detector, images, pair.mean, pair.std)
    found = choose_halo(errors, max(detector.strides))
    assert 0 < found <= TILE // 4
    assert errors[0] > 0.05  # without a halo seams would show
    return found


def test_strides_are_those_of_the_taps(detector):
    assert detector.strides == [4, 8]


@pytest.mark.slow
def test_tiles_agree_with_the_whole_frame(pair, detector, texture, halo):
    whole = FusedDetector(pair, pair.spec, InputSpec(height=TILE, width=512), (TILE, 512), pair.mean, pair.std)
    with torch.inference_mode():
        expected = whole(torch.from_numpy(texture[None]))[0][0].numpy()
    # 1 % of the range is what the halo was chosen for.
    assert np.abs(judged(detector, texture, halo) - expected).max() <= 0.01 * np.ptp(expected)


@pytest.mark.slow
def test_a_defect_scores_alike_wherever_a_seam_is(detector, texture, halo):
    """The frame moves under the camera: the scratch passes every distance to a seam, and every
    phase of the strides."""
    step = max(detector.strides)
    for moved in range(0, 160, 19):
        frame = texture[:, moved : moved + 352]
        column = (258 - moved - TILE // 2) // step * step
        with torch.inference_mode():
            tile = np.ascontiguousarray(frame[None, :, max(0, column) : max(0, column) + TILE])
            alone = detector(torch.from_numpy(tile))[1].item()
        assert judged(detector, frame, halo).max() == pytest.approx(alone, rel=0.02)
