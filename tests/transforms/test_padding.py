# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from conftest import phantom

from monai_n2v.transforms.padding import find_padding, restore_padding


def disk(shape: tuple[int, ...]) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return sum(a**2 for a in axes) < 0.8


@pytest.mark.parametrize("shape", [(48, 40), (28, 24, 20)])
@pytest.mark.parametrize("value", [-2000, 0])
def test_padding_around_a_circle_found(shape, value):
    noisy = phantom(shape)[1]
    inside = disk(shape)
    noisy[~inside] = value
    padding = find_padding(noisy)
    assert not (padding & inside).any()
    assert np.array_equal(padding, ~inside)
    denoised = noisy + phantom(shape, seed=1)[1]
    before = denoised.copy()
    restore_padding(noisy, denoised)
    assert np.array_equal(denoised[padding], noisy[padding])
    assert denoised.mean(dtype=float) == pytest.approx(noisy.mean(dtype=float), rel=1e-5)
    shift = (denoised - before)[~padding]
    assert np.ptp(shift) < 1e-3, "only the mean of the others changes"


def test_blocks_inside_what_was_measured_are_not_padding():
    noisy = phantom((60, 60))[1]
    noisy[:8] = noisy[20:28, 30:38] = -1000
    padding = find_padding(noisy)
    assert padding[:8].all()
    assert not padding[8:].any()


@pytest.mark.parametrize("shape", [(64, 64), (24, 24, 24)])
def test_noise_holds_no_padding(shape):
    assert find_padding(phantom(shape)[1]) is None


@pytest.mark.parametrize("shape", [(256, 256), (48, 48, 48)])
def test_clipped_noise_is_not_padding(shape):
    clipped = np.maximum(np.random.default_rng(0).normal(-0.1, 1, shape), 0).astype(np.float32)
    assert (clipped == 0).mean() > 0.5
    assert find_padding(clipped) is None


def test_thin_volume_passes():
    noisy = phantom((20, 20, 2))[1]
    noisy[:8] = -1024
    assert find_padding(noisy)[:8].all()


@pytest.mark.parametrize(
    ("shape", "rate"), [((256, 256), 0.1), ((256, 256), 0.2), ((64, 64, 64), 0.05), ((64, 64, 64), 0.15)]
)
def test_few_photons_are_not_padding(shape, rate):
    counts = np.random.default_rng(0).poisson(rate, shape).astype(np.float32)
    assert find_padding(counts) is None


@pytest.mark.parametrize("n_empty", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_empty_slices_at_the_ends_are_padding(n_empty, axis):
    noisy = phantom((20, 18, 16))[1]
    slices = np.moveaxis(noisy, axis, 0)
    slices[:n_empty], slices[-1] = 0, 0
    expected = np.zeros_like(noisy, dtype=bool)
    np.moveaxis(expected, axis, 0)[[*range(n_empty), -1]] = True
    assert np.array_equal(find_padding(noisy), expected)


@pytest.mark.parametrize("mean", [0.3, 0.8, 1.5])
def test_clipped_zeros_do_not_lead_padding_into_the_image(mean):
    noisy = np.maximum(np.random.default_rng(0).normal(mean, 1, (40, 36, 30)), 0)  # 38, 21 and 7 % of zeros
    noisy[:6] = 0
    padding = find_padding(noisy)
    assert padding[:6].mean() > 0.95
    assert not padding[14:].any()
