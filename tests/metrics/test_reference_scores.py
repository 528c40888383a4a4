# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import phantom
from monai.metrics import PSNRMetric
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from monai_n2v.metrics import reference as scores
from monai_n2v.metrics.reference import (
    average_repeats,
    data_range_of,
    psnr,
    score_blind,
    score_clean,
    score_repeats,
    score_residual,
    ssim,
)

SHAPES = {2: (48, 40), 3: (24, 20, 28)}


def reference_ssim(image: np.ndarray, clean: np.ndarray, data_range: float) -> float:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "win_size": 11}
    return structural_similarity(image, clean, data_range=data_range, **options)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_clean_scores_equal_scikit_image_and_monai(spatial_dims):
    clean, noisy = phantom(SHAPES[spatial_dims])
    denoised = ndimage.gaussian_filter(noisy, 1)
    data_range = data_range_of(noisy, clean)
    assert data_range == pytest.approx(clean.max() - clean.min())
    found = score_clean(noisy, denoised, clean, data_range, spatial_dims)
    for name, image in (("noisy", noisy), ("denoised", denoised)):
        expected = peak_signal_noise_ratio(clean, image, data_range=data_range)
        assert found[f"psnr_{name}"] == pytest.approx(expected, abs=1e-4)
        tensors = (torch.from_numpy(x)[None, None] for x in (image, clean))
        assert found[f"psnr_{name}"] == pytest.approx(PSNRMetric(data_range)(*tensors).item(), abs=1e-3)
        assert found[f"ssim_{name}"] == pytest.approx(reference_ssim(image, clean, data_range), abs=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(
    ("offset", "amplitude", "sigma", "data_range"),
    [
        pytest.param(32768.0, 20.0, 5.0, 40.0, id="uint16"),
        pytest.param(1024.0, 20.0, 10.0, 80.0, id="CT-stored"),
        pytest.param(-1000.0, 5.0, 1.0, 20.0, id="CT-air"),
    ],
)
def test_ssim_is_exact_far_from_zero(offset, amplitude, sigma, data_range, spatial_dims):
    rng = np.random.default_rng(0)
    clean = offset + amplitude * ndimage.gaussian_filter(rng.normal(size=SHAPES[spatial_dims]), 1)
    images = [np.round(clean + noise).astype(np.float32) for noise in (0, rng.normal(0, sigma, clean.shape))]
    expected = reference_ssim(*(x.astype(np.float64) for x in images), data_range)
    assert ssim(images[1], images[0], data_range, spatial_dims) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("shape", "spatial_dims"), [((24, 28, 5), 3), ((24, 28, 14), 2)])
def test_ssim_of_slices_where_axis_is_thin_or_network_flat(shape, spatial_dims):
    clean, noisy = phantom(shape)
    expected = np.mean([reference_ssim(noisy[..., k], clean[..., k], 100.0) for k in range(shape[2])])
    assert ssim(noisy, clean, 100.0, spatial_dims) == pytest.approx(expected, abs=1e-5)


def test_ssim_does_not_depend_on_slabs(monkeypatch):
    clean, noisy = phantom(SHAPES[3])
    whole = ssim(noisy, clean, 100.0, 3)
    monkeypatch.setattr(scores, "_SLAB", 3 * 20 * 28)
    assert ssim(noisy, clean, 100.0, 3) == pytest.approx(whole, abs=1e-7)


def test_scores_without_answer_are_nan_not_errors():
    image = np.zeros((10, 10), dtype=np.float32)
    assert math.isnan(ssim(image, image, 1.0, 2)), "smaller than the window"
    assert math.isnan(psnr(-0.1, 1.0)), "an estimate below zero"
    assert math.isnan(psnr(1.0, 0.0)), "a constant image has no range"
    assert psnr(0.0, 1.0) == math.inf
    assert psnr(math.inf, 1.0) == -math.inf
    assert math.isnan(score_blind(image, np.full_like(image, np.nan), 1.0, 1.0)["blind_mse"]), "no blind spot"


def test_range_without_reference_resists_outliers():
    noisy = phantom((128, 128))[1]
    spiked = noisy.copy()
    spiked[3, 5] = 1e6
    assert data_range_of(spiked) == pytest.approx(data_range_of(noisy), rel=0.02)


@pytest.mark.parametrize("n_repeats", [1, 2, 4])
def test_average_of_repeats_equals_numpy(n_repeats):
    repeats = np.random.default_rng(0).normal(100, 5, (n_repeats, 2, 6, 7)).astype(np.float32)
    mean, variance = average_repeats(iter(repeats))
    np.testing.assert_allclose(mean, repeats.mean(axis=0), rtol=1e-6)
    if n_repeats == 1:
        assert variance is None
    else:
        expected = repeats.astype(np.float64).var(axis=0, ddof=1).mean(axis=(1, 2)) / n_repeats
        np.testing.assert_allclose(variance, expected, rtol=1e-5)


def is_unbiased(differences: list[float]) -> bool:
    """Whether estimate minus truth, over independent noise, lies within four standard errors of zero."""
    return abs(np.mean(differences)) < 4 * np.std(differences, ddof=1) / math.sqrt(len(differences))


@pytest.mark.parametrize("n_repeats", [1, 2, 3])
def test_error_against_repeats_is_unbiased(n_repeats):
    clean = phantom(SHAPES[2])[0]
    rng = np.random.default_rng(n_repeats)
    off: dict[str, list[float]] = {"noisy": [], "denoised": [], "uncorrected": []}
    for _ in range(200):
        noisy, *repeats = clean + rng.normal(0, 10, (1 + n_repeats, *clean.shape)).astype(np.float32)
        denoised = ndimage.gaussian_filter(noisy, 0.8)
        mean, variance = average_repeats(repeat[None] for repeat in repeats)
        found = score_repeats(noisy, denoised, mean[0], variance[0] if variance else None, 100.0)
        for name, image in (("noisy", noisy), ("denoised", denoised)):
            off[name].append(found[f"repeats_mse_{name}"] - np.mean((image - clean) ** 2))
            assert found[f"repeats_psnr_{name}"] == psnr(found[f"repeats_mse_{name}"], 100.0)
        off["uncorrected"].append(np.mean((denoised - mean[0]) ** 2) - np.mean((denoised - clean) ** 2))
    assert is_unbiased(off["noisy"])
    assert is_unbiased(off["denoised"])
    assert not is_unbiased(off["uncorrected"]), "the test would not see a missing correction"


def without_center(image: np.ndarray) -> np.ndarray:
    """Mean of the neighbors of every voxel: blind to the voxel itself."""
    kernel = np.ones((3,) * image.ndim)
    kernel[(1,) * image.ndim] = 0
    # "nearest" would repeat a border voxel among its own neighbors.
    return ndimage.convolve(image, kernel / kernel.sum(), mode="mirror")


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_error_at_blind_spots_is_unbiased_and_knows_its_spread(spatial_dims):
    clean = phantom(SHAPES[spatial_dims])[0]
    rng = np.random.default_rng(0)
    off, estimates, errors = [], [], []
    for _ in range(300):
        noisy = (clean + rng.normal(0, 10, clean.shape)).astype(np.float32)
        spots = rng.random(clean.shape) < 0.1
        predicted = without_center(noisy)
        found = score_blind(noisy, np.where(spots, predicted, np.nan), 100.0, 100.0)
        off.append(found["blind_mse"] - np.mean((predicted - clean)[spots] ** 2))
        estimates.append(found["blind_mse"])
        errors.append(found["blind_mse_error"])
        assert found["blind_psnr"] == psnr(found["blind_mse"], 100.0) or found["blind_mse"] < 0
        assert found["blind_psnr_noisy"] == pytest.approx(20.0)
    assert is_unbiased(off)
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.2)


@pytest.mark.parametrize("shape", [(128, 128), (256, 256), (48, 48, 48)])
@pytest.mark.parametrize("sigma", [5.0, 20.0])
def test_noise_level_right_within_two_percent_on_a_smooth_image(shape, sigma):
    noisy = phantom(shape, sigma, seed=1)[1]
    found, alive = score_residual(noisy, ndimage.gaussian_filter(noisy, 1))
    assert found["sigma"] == pytest.approx(sigma, rel=0.02)
    assert alive == 1


@pytest.mark.parametrize(("sigma", "slope"), [(1.0, 1.0), (5.0, 1.0), (11.5, 1.0), (5.0, 0.25)])
def test_noise_level_of_whole_numbers_does_not_jump(sigma, slope):
    stored = np.round(phantom((256, 256), sigma, seed=2)[1]) * np.float32(slope)
    # Rounding is noise of its own, uniform over one level.
    expected = slope * math.sqrt(sigma**2 + 1 / 12)
    assert score_residual(stored, 0 * stored)[0]["sigma"] == pytest.approx(expected, rel=0.025)
    stored[:64] = stored.min()
    found, alive = score_residual(stored, 0 * stored)
    assert found["sigma"] == pytest.approx(expected, rel=0.03)
    assert alive == pytest.approx(0.75, abs=0.02), "padding stays constant"


def test_noise_level_too_high_on_fine_texture():
    """The limit that docs/how-to/scoring.md tells of."""
    texture = np.random.default_rng(3).normal(0, 5, (128, 128))
    noisy = (texture + np.random.default_rng(4).normal(0, 5, (128, 128))).astype(np.float32)
    assert score_residual(noisy, 0 * noisy)[0]["sigma"] > 6.5


def test_constant_padding_holds_no_noise():
    noisy = phantom((64, 64))[1]
    noisy[:32] = 0
    found, alive = score_residual(noisy, ndimage.gaussian_filter(noisy, 1))
    assert found["sigma"] == pytest.approx(10, rel=0.1)
    assert alive == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_residual_is_white_or_tells_its_axis(spatial_dims):
    clean, noisy = phantom(SHAPES[spatial_dims])
    white = score_residual(noisy, clean)[0]
    colored = score_residual(clean + ndimage.uniform_filter1d(noisy - clean, 2, axis=1), clean)[0]
    for axis in range(spatial_dims):
        assert abs(white[f"residual_lag1_axis{axis}"]) < 0.1
        assert colored[f"residual_lag1_axis{axis}"] == pytest.approx(0.5 if axis == 1 else 0, abs=0.12)


def test_every_score_has_its_column():
    clean, noisy = phantom(SHAPES[3])
    found = score_clean(noisy, clean, clean, 1.0, 3) | score_repeats(noisy, clean, noisy, None, 1.0)
    found |= score_blind(noisy, clean, 1.0, 1.0) | score_residual(noisy, clean)[0]
    assert {*found, "val_loss", "data_range"} == set(scores.SCORES)
