# SPDX-License-Identifier: Apache-2.0
"""What the network found is measured again in the noisy image; what it found nothing of stays out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from monai_n2v.noise.model import NoiseModel
from monai_n2v.transforms import WienerFilterd, draw_noise, wiener_filter
from monai_n2v.transforms.noise_parts import measure_channel

SHAPES = {2: (83, 72), 3: (40, 37, 32)}


def white(sigma: float, n_axes: int) -> NoiseModel:
    return NoiseModel(np.zeros(1), np.full(1, sigma), np.zeros((n_axes, 3)))


def scene(spatial_dims: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=SHAPES[spatial_dims]), 3, mode="nearest")
    return np.where(smooth > 0, 1.0, -1.0).astype(np.float32) + (smooth / smooth.std()).astype(np.float32)


def noisy_of(clean: np.ndarray, sigma: float, seed: int = 1) -> np.ndarray:
    return (clean + np.random.default_rng(seed).normal(0, sigma, clean.shape)).astype(np.float32)


def error(found: torch.Tensor | np.ndarray, clean: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.asarray(found) - clean) ** 2)))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_what_a_pilot_weakens_comes_back_from_the_noisy_image(spatial_dims):
    clean = scene(spatial_dims)
    noisy = noisy_of(clean, 0.3)
    pilot = 0.6 * clean
    found = wiener_filter(torch.from_numpy(noisy), torch.from_numpy(pilot), white(0.3, spatial_dims), spatial_dims)
    assert error(found, clean) < 0.8 * error(noisy, clean) < 0.5 * error(pilot, clean)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_noise_without_structure_stays_out(spatial_dims):
    noisy = torch.from_numpy(noisy_of(np.zeros(SHAPES[spatial_dims]), 1.0))
    assert not wiener_filter(noisy, torch.zeros_like(noisy), white(1.0, spatial_dims), spatial_dims).any()
    flat = torch.full_like(noisy, 5.0)  # whose mean is measured again in every block
    assert (wiener_filter(noisy + 5, flat, white(1.0, spatial_dims), spatial_dims) - 5).std() < 8 ** (-spatial_dims / 2)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_an_image_of_strong_structure_stays_as_it_is(spatial_dims):
    clean = torch.from_numpy(scene(spatial_dims))
    found = wiener_filter(clean, clean, white(1e-4, spatial_dims), spatial_dims)
    torch.testing.assert_close(found, clean, atol=1e-3, rtol=0)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_correlated_noise_is_filtered_by_its_own_power(spatial_dims):
    clean = scene(spatial_dims)
    lags = np.zeros((spatial_dims, 3))
    lags[:2, 0] = 0.45
    noise = NoiseModel(np.zeros(1), np.full(1, 0.4), lags)
    pilot = torch.from_numpy(clean)
    noisy = torch.from_numpy(clean) + draw_noise(noise, pilot[None, None], np.random.RandomState(0))[0, 0]
    by_its_own, as_if_white = (
        error(wiener_filter(noisy, pilot, one, spatial_dims), clean) for one in (noise, white(0.4, spatial_dims))
    )
    assert by_its_own < 0.98 * as_if_white


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_noise_that_grows_with_the_intensity_is_filtered_more_where_it_is_strong(spatial_dims):
    level = np.zeros(SHAPES[spatial_dims], dtype=np.float32)
    level[SHAPES[spatial_dims][0] // 2 :] = 10
    rng = np.random.default_rng(0)
    fine = ndimage.gaussian_filter(rng.normal(size=level.shape), 1.0).astype(np.float32)
    clean = level + 0.5 * fine / fine.std()
    noise = NoiseModel(np.array([0.0, 10.0]), np.array([0.1, 1.0]), np.zeros((spatial_dims, 3)))
    noisy = clean + noise.sigmas[(level > 5).astype(int)] * rng.normal(size=level.shape).astype(np.float32)
    by_level, by_mean = (
        error(wiener_filter(*map(torch.from_numpy, (noisy.astype(np.float32), clean)), one, spatial_dims), clean)
        for one in (noise, white(noise.sigma, spatial_dims))
    )
    assert by_level < 0.98 * by_mean


def test_slices_are_not_mixed():
    noisy, denoised = torch.rand(2, 20, 20, 6)
    other = noisy.clone()
    other[..., 3] += 1
    one, two = (wiener_filter(image, denoised, white(0.3, 3), 2) for image in (noisy, other))
    assert [torch.equal(one[..., k], two[..., k]) for k in range(6)] == [True] * 3 + [False] + [True] * 2


@pytest.mark.parametrize("shape", [(83, 20), (5, 90), (37, 9, 11), (3, 4, 50), (1, 1, 1)])
def test_slabs_and_sides_of_any_length_make_no_difference(shape, monkeypatch):
    noisy, denoised = torch.rand(2, *shape)
    whole = wiener_filter(noisy, denoised, white(0.3, len(shape)), len(shape))
    assert whole.shape == shape
    assert torch.isfinite(whole).all()
    monkeypatch.setattr("monai_n2v.transforms.wiener._MAX_VOXELS", 1)
    torch.testing.assert_close(
        wiener_filter(noisy, denoised, white(0.3, len(shape)), len(shape)), whole, atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_dictionaries_are_filtered_channel_by_channel_with_their_own_noise(spatial_dims):
    clean = np.stack([scene(spatial_dims, seed) for seed in range(3)])
    noisy = np.stack([noisy_of(one, sigma) for one, sigma in zip(clean, (0.1, 0.3, 0.6))])
    pilot = torch.from_numpy(clean)
    data = {"image": MetaTensor(torch.from_numpy(noisy)), "pred": MetaTensor(pilot)}
    found = WienerFilterd(weight=0.5, spatial_dims=spatial_dims)(data)["pred"]
    sigmas = []
    for channel in range(3):
        noise = measure_channel(data["image"], pilot, channel)
        sigmas.append(noise.sigma)
        expected = wiener_filter(torch.from_numpy(noisy[channel]), pilot[channel], noise, spatial_dims)
        torch.testing.assert_close(found[channel], torch.lerp(pilot[channel], expected, 0.5))
    assert sigmas == pytest.approx([0.1, 0.3, 0.6], rel=0.5)
    assert torch.equal(data["pred"].as_tensor(), pilot)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("weight", [0, 1])
def test_predictions_stay_where_there_is_no_weight_or_no_noise(weight, spatial_dims):
    noisy = torch.from_numpy(noisy_of(scene(spatial_dims), 0.3))[None]
    denoised = torch.rand_like(noisy) if weight == 0 else noisy
    found = WienerFilterd(weight=weight, spatial_dims=spatial_dims)({"image": noisy, "pred": denoised})["pred"]
    assert torch.equal(found, denoised)


@pytest.mark.parametrize("weight", [-0.1, 1.1, "1", True, None, float("nan")])
def test_other_weights_are_refused(weight):
    with pytest.raises(ValueError, match="wiener must be a share from 0 to 1"):
        WienerFilterd(weight=weight)
