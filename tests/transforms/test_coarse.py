# SPDX-License-Identifier: Apache-2.0
"""Coarse structure comes from the noisy image, fine structure from the network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from monai_n2v.transforms import RestoreCoarsed, restore_coarse

SHAPES = {2: (80, 72), 3: (40, 36, 32)}


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_coarse_structure_is_back_and_fine_structure_is_the_networks(spatial_dims):
    rng = np.random.default_rng(0)
    coarse = ndimage.gaussian_filter(rng.normal(size=SHAPES[spatial_dims]), 10, mode="nearest")
    coarse /= coarse.std()
    fine = rng.normal(size=SHAPES[spatial_dims])
    fine -= ndimage.gaussian_filter(fine, 4)
    missed = restore_coarse(coarse, 0 * coarse, 1.5, spatial_dims) - coarse
    inside = (slice(6, -6),) * spatial_dims
    assert np.abs(missed[inside]).max() < 0.2
    kept = restore_coarse(0 * fine, fine, 1.5, spatial_dims)
    assert np.corrcoef(kept.ravel(), fine.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_so_much_noise_stays_as_is_said(spatial_dims, scale):
    noise = np.random.default_rng(0).normal(size={2: (400, 400), 3: (80, 80, 80)}[spatial_dims])
    left = restore_coarse(noise, 0 * noise, scale, spatial_dims).std()
    assert left == pytest.approx((3.5 * scale) ** (-spatial_dims / 2), rel=0.1)


def test_slices_are_not_mixed():
    noisy, denoised = np.random.default_rng(0).normal(size=(2, 20, 20, 6)).astype(np.float32)
    other = noisy.copy()
    other[..., 3] += 1
    one, two = (restore_coarse(image, denoised, 1.5, 2) for image in (noisy, other))
    assert [np.array_equal(one[..., k], two[..., k]) for k in range(6)] == [True] * 3 + [False] + [True] * 2


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_dictionaries_are_restored_channel_by_channel(spatial_dims):
    noisy, denoised = torch.rand(2, 3, *SHAPES[spatial_dims])
    data = {"image": MetaTensor(noisy), "pred": denoised}
    assert torch.equal(RestoreCoarsed(spatial_dims=spatial_dims)(data)["pred"], denoised)
    found = RestoreCoarsed(scale=2, spatial_dims=spatial_dims)(data)["pred"]
    for channel in range(3):
        expected = restore_coarse(noisy[channel].numpy(), denoised[channel].numpy(), 2, spatial_dims)
        assert np.array_equal(found[channel].numpy(), expected)
    assert torch.equal(data["pred"], denoised)


@pytest.mark.parametrize("scale", [0, -1, "2", True, float("nan"), float("inf"), 11])
def test_other_scales_are_refused(scale):
    with pytest.raises(ValueError, match="keep_scale must be a number of voxels from 0 to 10"):
        RestoreCoarsed(scale=scale)
