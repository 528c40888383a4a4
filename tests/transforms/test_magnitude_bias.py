# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from samples import head, magnitude

from monai_n2v.transforms import RemoveMagnitudeBiasd


def data(noisy: np.ndarray, denoised: np.ndarray) -> dict[str, MetaTensor]:
    return {name: MetaTensor(torch.from_numpy(one[None])) for name, one in (("noisy", noisy), ("pred", denoised))}


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_padding_keeps_its_value_and_air_becomes_zero(spatial_dims):
    noisy = magnitude(head(spatial_dims), 9)
    noisy[:5] = 0.5
    denoised = np.full_like(noisy, 9 * 1.2533)
    denoised[:5] = 0.5
    output = RemoveMagnitudeBiasd()(data(noisy, denoised))
    assert (output["pred"][0, :5] == 0.5).all()
    assert (output["pred"][0, 9:] == 0).all()
    assert [noise.n_coils for noise in output["magnitude_noise"]] == [1]


@pytest.mark.parametrize("options", [{}, {"magnitude": "off"}])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_unbiased_images_are_left_alone(options, spatial_dims):
    noisy = head(spatial_dims) + np.random.default_rng(0).normal(0, 9, head(spatial_dims).shape).astype(np.float32)
    denoised = head(spatial_dims)
    output = RemoveMagnitudeBiasd(**options)(data(noisy, denoised))
    np.testing.assert_array_equal(output["pred"][0], denoised)
    assert output["magnitude_noise"] == []


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_bias_is_not_taken_off_twice(spatial_dims):
    noisy = magnitude(head(spatial_dims), 9)
    once = RemoveMagnitudeBiasd()(data(noisy, head(spatial_dims) + 9))["pred"][0].numpy()
    np.testing.assert_array_equal(RemoveMagnitudeBiasd()(data(once, once))["pred"][0], once)


def test_wrong_settings_are_refused():
    for options, message in (
        ({"magnitude": "yes"}, "magnitude must be one of auto, rician, off, got 'yes'."),
        ({"coils": 0}, "coils must be a number from 1 to 64, got 0."),
        ({"coils": 1000}, "coils must be a number from 1 to 64, got 1000."),
        ({"coils": "4"}, "coils must be a number from 1 to 64, got '4'."),
        ({"coils": 4, "magnitude": "off"}, "coils must come with a magnitude, got 4 and magnitude off."),
    ):
        with pytest.raises(ValueError, match=message):
            RemoveMagnitudeBiasd(**options)
    signed = head(3) - 5
    with pytest.raises(ValueError, match="magnitude must be auto or off for an image with negative values, got rician"):
        RemoveMagnitudeBiasd(magnitude="rician")(data(signed, signed))


def test_rician_without_measurable_noise_leaves_the_image_and_says_so(caplog):
    flat = np.ones((20, 20, 20), np.float32)
    with caplog.at_level("WARNING", logger="monai_n2v"):
        output = RemoveMagnitudeBiasd(magnitude="rician")(data(flat, flat))
    assert (output["pred"] == 1).all()
    assert "could not be measured" in caplog.text
