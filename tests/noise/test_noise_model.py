# SPDX-License-Identifier: Apache-2.0
"""Noise read from what a denoiser removes; a smooth filter stands for the network."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from monai_n2v.noise.model import NoiseModel, fit_noise_model, pooled

SHAPES = {2: (3, 128, 120), 3: (1, 48, 56, 40)}


def clean_images(spatial_dims: int) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPES[spatial_dims][1:]), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    image = 2 * (radius < 0.8) + 1.5 * (radius < 0.5) + 0.3 * np.sin(5 * axes[0])
    return np.broadcast_to(image, SHAPES[spatial_dims]).astype(np.float32)


def denoised(noisy: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(noisy, (0, *(1.0,) * (noisy.ndim - 1)))


@pytest.mark.parametrize("sigma", [0.1, 0.5])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_white_noise_is_measured(spatial_dims, sigma):
    clean = clean_images(spatial_dims)
    noisy = (clean + np.random.default_rng(0).normal(0, sigma, clean.shape)).astype(np.float32)
    model = fit_noise_model(noisy, denoised(noisy))
    assert model.is_white
    assert model.sigma == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_correlation_is_measured_along_its_axis(spatial_dims):
    clean = clean_images(spatial_dims)
    noise = ndimage.correlate1d(np.random.default_rng(0).normal(0, 0.5, clean.shape), (1, 0.4), axis=1, mode="wrap")
    noisy = (clean + noise).astype(np.float32)
    model = fit_noise_model(noisy, denoised(noisy))
    assert model.lags[0, 0] == pytest.approx(0.4 / 1.16, abs=0.05)
    assert not model.lags[1:].any()
    assert model.sigma == pytest.approx(noise.std(), rel=0.07)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_strength_is_measured_by_intensity(spatial_dims):
    clean = clean_images(spatial_dims)
    sigma = 0.1 + 0.1 * np.maximum(clean, 0)
    noisy = (clean + sigma * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)
    model = fit_noise_model(noisy, denoised(noisy))
    assert not model.is_constant
    at = np.interp([0.2, 3.5], model.levels, model.sigmas)
    assert at == pytest.approx([0.12, 0.45], rel=0.15)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_filters_give_the_lags_they_were_made_for(spatial_dims):
    lags = np.zeros((spatial_dims, 3))
    lags[0] = 0.4, 0.1, 0.0
    for filter_, wanted in zip(NoiseModel(np.zeros(1), np.ones(1), lags).taps(), lags):
        found = [float((filter_[k:] * filter_[: len(filter_) - k]).sum()) for k in range(4)]
        assert found == pytest.approx([1, *wanted], abs=0.03)


def test_one_model_stands_for_several_images():
    white = np.zeros((2, 3))
    models = [NoiseModel(np.array([0.0]), np.array([s]), white) for s in (0.3, 0.4)]
    assert pooled(models).sigmas == pytest.approx([np.sqrt((0.09 + 0.16) / 2)])
    assert pooled(models[:1]) is models[0]


def test_no_noise_is_refused():
    image = clean_images(2)
    with pytest.raises(ValueError, match="images must hold noise to measure"):
        fit_noise_model(image, image)
