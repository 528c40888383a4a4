# SPDX-License-Identifier: Apache-2.0
"""Noise by what a network removes, and results compared without a clean image."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from conftest import phantom
from monai.inferers import SimpleInferer
from scipy import ndimage

from monai_n2v.data import make_dataset
from monai_n2v.inferers import DenoisedLabeld, predict_with, sure
from monai_n2v.noise.model import NoiseModel, NoNoiseError, fit_noise_model
from monai_n2v.transforms.noise_parts import parts_of

SHAPES = {2: (96, 88), 3: (40, 36, 32)}


def standardized(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(((image - image.mean()) / image.std()).astype(np.float32))[None]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_sure_is_the_error_for_every_amount_of_smoothing(spatial_dims):
    clean, noisy = phantom(SHAPES[spatial_dims], sigma=15)
    part, scale = standardized(noisy), float(noisy.std())
    noise = NoiseModel(np.zeros(1), np.array([15 / scale]), np.zeros((spatial_dims, 3)))
    truth = torch.from_numpy(((clean - noisy.mean()) / scale).astype(np.float32))[None]
    for width in (0.4, 0.8, 1.6):

        def smooth(x: torch.Tensor, width: float = width) -> torch.Tensor:
            return torch.from_numpy(ndimage.gaussian_filter(x.numpy(), (0, 0, *(width,) * spatial_dims)))

        error = float((smooth(part[None])[0] - truth).square().mean())
        assert sure(part, smooth, noise)[0] == pytest.approx(error, abs=0.06 * (15 / scale) ** 2)


def test_sure_does_not_prefer_what_is_only_brighter():
    """The mean is restored anyway, and a brighter result must not be granted more noise."""
    clean, noisy = phantom(SHAPES[2], sigma=15)
    part = standardized(noisy)
    noise = NoiseModel(np.array([-1.0, 2.0]), np.array([0.2, 0.8]), np.zeros((2, 3)))
    level = standardized(clean)
    scores = [sure(part, lambda x, off=off: 0.7 * x + off, noise, level)[0] for off in (0.0, 0.3)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_parts_are_small_copies_of_a_few_channels():
    image = torch.randn(9, 40, 200, 200)
    parts = [part.noisy for part in parts_of(image, 2**16)]
    assert len(parts) == 4
    assert all(part.numel() <= 1.6 * 2**16 and part.untyped_storage().nbytes() == 4 * part.numel() for part in parts)


def test_images_without_two_long_axes_are_not_measured():
    noisy = np.random.default_rng(0).normal(size=(1, 9, 300)).astype(np.float32)
    with pytest.raises(NoNoiseError, match="images must hold noise to measure"):
        fit_noise_model(noisy, np.zeros_like(noisy))


def test_labels_are_cached_by_the_weights_that_made_them(tmp_path):
    image = torch.randn(1, 8, 8)
    for weight in (0.5, 0.25):
        network = torch.nn.Conv2d(1, 1, 1, bias=False)
        torch.nn.init.constant_(network.weight, weight)
        transform = DenoisedLabeld("image", network, SimpleInferer())
        cached = make_dataset([{"image": image}], transform, tmp_path)
        torch.testing.assert_close(torch.as_tensor(cached[0]["label"]), weight * image)
    assert pickle.loads(pickle.dumps(predict_with(network, SimpleInferer()))) is not None
