# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import phantom
from samples import head, magnitude
from scipy import ndimage

from monai_n2v.noise import check_noise
from monai_n2v.noise.magnitude import (
    MagnitudeNoise,
    assume_magnitude_noise,
    find_magnitude_noise,
    magnitude_mean,
    may_be_magnitude,
    noise_of_each,
    remove_magnitude_bias,
    tell_noise,
)


@pytest.mark.parametrize("n_coils", [1, 4, 12])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_magnitude_noise_is_found_and_several_coils_have_to_be_known(spatial_dims, n_coils):
    noisy = magnitude(head(spatial_dims), 9.0, n_coils)
    found = find_magnitude_noise(noisy[None], n_coils)
    assert found.sigma == pytest.approx(9, rel=0.03)
    assert found.n_coils == n_coils
    assert (find_magnitude_noise(noisy[None]) is None) == (n_coils > 1)
    assert find_magnitude_noise(noisy[None], 7) is None
    rounded = find_magnitude_noise(np.round(noisy[None]), n_coils)
    assert rounded.sigma == pytest.approx(9, rel=0.03)


def test_record_of_a_check_holds_no_voxels():
    assert len(str(check_noise(magnitude(head(3), 9.0)[None]).to_dict())) < 10_000


def correlated(clean: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(2, *clean.shape))
    noise = np.stack([ndimage.correlate1d(one, (1, 0.3), axis=0) / np.hypot(1, 0.3) for one in noise])
    return np.hypot(clean + 9 * noise[0], 9 * noise[1])


def test_magnitude_noise_is_found_where_neighbors_share_noise():
    found = find_magnitude_noise(correlated(head(3)).astype(np.float32)[None])
    assert (found.sigma, found.n_coils) == (pytest.approx(9, rel=0.06), 1)


OTHERS = {
    "Gaussian": lambda clean, rng: clean + rng.normal(0, 9, clean.shape),
    "clipped": lambda clean, rng: np.maximum(clean + rng.normal(0, 9, clean.shape), 0),
    "absolute": lambda clean, rng: np.abs(clean + rng.normal(0, 9, clean.shape)),
    "photon counts": lambda clean, rng: rng.poisson(clean / 5 + 3),
    "few photons": lambda clean, rng: rng.poisson(np.where(clean > 0, 8, 3.66)),
    "many photons": lambda clean, rng: rng.poisson(np.where(clean > 0, 40, 20)),
    "photons and a camera": lambda clean, rng: rng.poisson(clean / 20 + 3) + rng.normal(0, 0.7, clean.shape).clip(-3),
    "a camera's offset": lambda clean, rng: 30 + clean + rng.normal(0, 5, clean.shape),
    "an offset": lambda clean, rng: 100 + clean + rng.normal(0, 9, clean.shape),
    "no background": lambda clean, rng: magnitude(clean + 100, 9),
    "masked": lambda clean, rng: np.where(clean > 0, magnitude(clean, 9), 0),
    "no noise": lambda clean, rng: clean,
}


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("kind", OTHERS)
def test_other_images_are_no_magnitudes(kind, spatial_dims):
    assert (
        find_magnitude_noise(OTHERS[kind](head(spatial_dims), np.random.default_rng(1)).astype(np.float32)[None])
        is None
    )


def test_assumed_noise_is_that_of_the_tissue_without_a_background():
    noisy = magnitude(head(3) + 100, 9)[None]
    assert assume_magnitude_noise(noisy).sigma == pytest.approx(9, rel=0.05)
    assert not assume_magnitude_noise(noisy).has_air
    assert assume_magnitude_noise(noisy, 4).n_coils == 4
    assert assume_magnitude_noise(np.ones((1, 20, 20, 20), np.float32)) is None


@pytest.mark.parametrize("n_coils", [1, 2.5, 32])
def test_bias_is_removed_exactly_from_exact_means(n_coils):
    """Up to a signal-to-noise ratio where the function itself would overflow."""
    signal = np.geomspace(0.5, 1000, 4096).reshape(64, 64).astype(np.float32)
    noise = MagnitudeNoise(2.0, n_coils, has_air=False)
    mean = magnitude_mean(signal, noise.sigma, n_coils)
    assert (mean > signal).all()
    np.testing.assert_allclose(remove_magnitude_bias(mean, noise), signal, rtol=0.01)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_background_becomes_zero_and_tissue_keeps_no_bias(spatial_dims):
    clean = head(spatial_dims)
    noise = find_magnitude_noise(magnitude(clean, 9)[None])
    rng = np.random.default_rng(0)
    error = ndimage.gaussian_filter(rng.normal(size=clean.shape), 1)
    denoised = magnitude_mean(clean, 9) + 0.9 * error / error.std()  # a tenth of the noise is left
    output = remove_magnitude_bias(denoised.astype(np.float32), noise)
    air = ndimage.binary_erosion(clean == 0, iterations=3)
    assert output[air].mean() < 0.1 * 9 < denoised[air].mean() - 9
    assert abs((output - clean)[clean > 30].mean()) < 0.05 * 9
    assert output.min() >= 0


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_padding_and_a_faint_signal_do_not_meet(spatial_dims):
    """A signal of one and a half deviations stays, whether or not zeros lie around the image."""
    clean = head(spatial_dims)
    clean[(slice(2, 14),) * spatial_dims] = 1.5 * 9
    error = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=clean.shape), 1)
    denoised = (magnitude_mean(clean, 9) + 0.3 * error / error.std()).astype(np.float32)
    noise, faint = MagnitudeNoise(9.0), (slice(18, 26),) * spatial_dims
    denoised, padding = np.pad(denoised, 14), np.pad(np.zeros(clean.shape, bool), 14, constant_values=True)
    output = remove_magnitude_bias(denoised, noise, padding)
    assert (output[padding] == 0).all()
    assert output[faint].mean() == pytest.approx(1.5 * 9, rel=0.1)
    assert (output[faint] > 0).all()


@pytest.mark.parametrize("off", [-0.03, 0.03])
def test_air_that_lies_beside_its_level_becomes_zero(off):
    error = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(64, 64)), 1)
    denoised = (1 + off) * magnitude_mean(np.zeros((64, 64), np.float32), 9) + 0.3 * error / error.std()
    assert (remove_magnitude_bias(denoised.astype(np.float32), MagnitudeNoise(9.0)) == 0).mean() > 0.99


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("find", [find_magnitude_noise, assume_magnitude_noise])
def test_volumes_of_unlike_scale_have_each_their_noise(find, spatial_dims):
    volumes = np.stack([scale * magnitude(head(spatial_dims), 9, seed=seed) for seed, scale in enumerate((1, 3, 3))])
    found = noise_of_each(volumes, None, find)
    assert [noise.sigma for noise in found] == pytest.approx([9, 27, 27], rel=0.05)
    assert all(noise.has_air for noise in found)
    assert re.search("Rician noise of standard deviation (9|8.95) to (27|26).*, by volume", tell_noise(found))
    assert "by volume" not in tell_noise(found[:1])


def test_volume_without_air_has_the_noise_of_the_series():
    volumes = np.stack([magnitude(head(3), 9, seed=seed) for seed in range(3)])
    volumes[1] = magnitude(head(3) + 100, 9)
    first, second, third = noise_of_each(volumes, None, find_magnitude_noise)
    assert second.sigma == pytest.approx(9, rel=0.05)
    assert second.has_air
    assert first.sigma != third.sigma
    assert noise_of_each(volumes - 200, None, find_magnitude_noise) == []


def test_series_is_none_of_magnitudes_where_few_of_its_volumes_look_so():
    rng = np.random.default_rng(0)
    clean = head(3)
    counts = np.stack([rng.poisson(clean + 20) for _ in range(3)]).astype(np.float32)
    counts[0] = magnitude(clean, 9)
    assert find_magnitude_noise(counts[:1]) is not None
    assert noise_of_each(counts, None, find_magnitude_noise) == []


@pytest.mark.parametrize("shape", [(48, 48, 40), (40, 40, 32), (64, 64), (96, 96)])
def test_small_magnitudes_are_a_doubt(shape):
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    clean = np.where(np.sqrt(sum(a**2 for a in axes)) < 0.7, phantom(shape)[0], 0).astype(np.float32)
    noisy = magnitude(clean, 3)[None]
    assert find_magnitude_noise(noisy) is None
    assert may_be_magnitude(noisy)
    assert not may_be_magnitude(noisy - 5)


@pytest.mark.parametrize("kind", ["bright", "counts with background", "zeros around"])
def test_other_images_are_no_doubt(kind):
    rng = np.random.default_rng(0)
    clean = head(3)
    image = {
        "bright": clean + 100 + rng.normal(0, 9, clean.shape),
        "counts with background": rng.poisson(clean + 20),
        "zeros around": np.where(clean > 0, clean + 50 + rng.normal(0, 5, clean.shape), 0),
    }[kind]
    assert not may_be_magnitude(image[None].astype(np.float32))
