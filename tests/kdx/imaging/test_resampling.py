from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.ndimage import gaussian_filter1d

from kdx.imaging.resampling import antialias_matrix, bilinear_matrix, gaussian_matrix, resize_image

# float64 against float32 (torch) or another order of summation (scipy).
FLOAT32 = 2e-6
FLOAT64 = 1e-12


@pytest.mark.parametrize(
    ("size_in", "size_out"), [(300, 224), (480, 256), (64, 64), (100, 37), (7, 5), (31, 200), (1, 4)]
)
def test_antialias_matrix_is_torchs_antialiased_resize(size_in: int, size_out: int) -> None:
    signal = torch.rand(1, 1, size_in, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(signal, size=(size_out, 5), mode="bilinear", antialias=True, align_corners=False)
    ours = antialias_matrix(size_in, size_out) @ signal[0, 0].numpy()
    np.testing.assert_allclose(ours, expected[0, 0].numpy(), atol=FLOAT32)


@pytest.mark.parametrize(("size_in", "size_out"), [(16, 256), (14, 224), (7, 100), (64, 64), (1, 9), (28, 20)])
def test_bilinear_matrix_is_torchs_interpolate(size_in: int, size_out: int) -> None:
    signal = torch.rand(1, 1, size_in, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(signal, size=(size_out, 5), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(
        bilinear_matrix(size_in, size_out) @ signal[0, 0].numpy(), expected[0, 0].numpy(), atol=FLOAT32
    )


@pytest.mark.parametrize(("size", "sigma"), [(256, 4.0), (224, 1.5), (9, 4.0), (3, 10.0), (64, 0.3)])
def test_gaussian_matrix_is_scipys_filter(size: int, sigma: float) -> None:
    signal = np.random.default_rng(0).random(size)
    expected = gaussian_filter1d(signal, sigma, mode="reflect", truncate=4.0)
    np.testing.assert_allclose(gaussian_matrix(size, sigma) @ signal, expected, atol=FLOAT64)


def test_a_gaussian_without_width_changes_nothing() -> None:
    assert (gaussian_matrix(5, 0.0) == np.eye(5)).all()


@pytest.mark.parametrize("matrix", [antialias_matrix(300, 128), bilinear_matrix(14, 224), gaussian_matrix(64, 4.0)])
def test_every_resampling_keeps_a_constant_image(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=FLOAT64)
    assert (matrix >= 0).all()


def test_a_reduction_by_two_is_the_triangle_filter() -> None:
    # Analytic: support 2 around the centre between pixels 1 and 2; weights 1/8, 3/8, 3/8, 1/8.
    np.testing.assert_allclose(antialias_matrix(8, 4)[1], [0, 1 / 8, 3 / 8, 3 / 8, 1 / 8, 0, 0, 0], atol=FLOAT64)


def test_cached_matrices_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        bilinear_matrix(4, 8)[0, 0] = 5.0


def test_resizing_an_image_is_torchs_within_a_grey_level() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    expected = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), size=(64, 48), mode="bilinear", antialias=True
    )
    ours = resize_image(image, 64, 48)
    assert ours.dtype == np.uint8
    # Rounding: half a grey level, and a little for float32.
    assert np.abs(ours - expected[0].permute(1, 2, 0).numpy()).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_a_resized_image_is_contiguous_as_backends_take_it(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, channels), dtype=np.uint8)
    assert resize_image(image, 32, 40).flags.c_contiguous


def test_resizing_to_the_same_size_is_the_image_itself() -> None:
    image = np.zeros((4, 5, 1), dtype=np.uint8)
    assert resize_image(image, 4, 5) is image
