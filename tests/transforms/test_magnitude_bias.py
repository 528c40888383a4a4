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


@pytest.mark.parametrize("options", [{}, {"magnitude": "rician"}])
def test_volumes_of_unlike_scale_lose_each_their_bias(options):
    clean = head(3)
    noisy = torch.from_numpy(np.stack([scale * magnitude(clean, 9, seed=scale) for scale in (1, 4)]))
    means = [np.mean([magnitude(clean, 9, seed=seed) for seed in range(5, 21)], axis=0) * scale for scale in (1, 4)]
    pred = torch.from_numpy(np.stack(means).astype(np.float32))
    output = RemoveMagnitudeBiasd(**options)({"noisy": MetaTensor(noisy), "pred": pred})
    for scale, before, after in zip((1, 4), pred.numpy(), output["pred"].numpy()):
        air = clean == 0
        assert before[air].mean() > 8 * scale
        assert after[air].mean() < 0.5 * scale


def test_doubt_is_told_with_what_to_do(caplog):
    small = magnitude(np.zeros((64, 64), np.float32) + 200 * (np.indices((64, 64)).sum(0) > 64), 9)
    with caplog.at_level("INFO", logger="monai_n2v"):
        RemoveMagnitudeBiasd()(data(small, small))
        assert "ask for it: --magnitude rician" in caplog.text
        caplog.clear()
        RemoveMagnitudeBiasd(magnitude="off")(data(small, small))
        RemoveMagnitudeBiasd()(data(small - 100, small - 100))
        RemoveMagnitudeBiasd()(data(small + 100, small + 100))
    assert caplog.text == ""


def test_complex_voxels_are_no_magnitude_unless_told_so():
    noisy = np.stack([magnitude(head(3), 9), np.zeros(head(3).shape, np.float32)])  # no imaginary part
    told = {"noisy": MetaTensor(torch.from_numpy(noisy), meta={"is_complex": True}), "pred": torch.from_numpy(noisy)}
    assert RemoveMagnitudeBiasd()(told)["magnitude_noise"] == []
    forced = RemoveMagnitudeBiasd(magnitude="rician")(told)
    assert forced["pred"][0, 9:].mean() < noisy[0, 9:].mean()
    assert (forced["pred"][1] == 0).all()
