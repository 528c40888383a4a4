# SPDX-License-Identifier: Apache-2.0
"""What is chosen for an image: by the prior that ships, on phantoms whose noise is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from conftest import phantom
from scipy import ndimage

from monai_n2v.apps.choose import choose
from monai_n2v.apps.inspect import NoisyImage
from monai_n2v.bundle.options import TrainingOptions
from monai_n2v.bundle.trained import prior_network
from monai_n2v.transforms.files import as_meta_tensor

SHAPES = {2: (96, 88), 3: (40, 36, 32)}


def image(values: np.ndarray) -> NoisyImage:
    return NoisyImage.of(as_meta_tensor(values[None].astype(np.float32), [1.0] * values.ndim))


def correlated(shape: tuple[int, ...]) -> np.ndarray:
    noise = ndimage.correlate1d(np.random.default_rng(0).normal(size=shape), (1, 0.6), axis=0, mode="wrap")
    return 10 * noise / noise.std()


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_white_noise_is_recorrupted_and_measured(spatial_dims):
    noisy = image(phantom(SHAPES[spatial_dims])[1])
    found = choose([noisy], TrainingOptions(spatial_dims=spatial_dims))
    assert (found.spatial_dims, found.scheme) == (spatial_dims, "recorrupted")
    assert found.judge is not None
    assert found.judge.noise.is_white
    assert found.judge.noise.sigma * noisy.std == pytest.approx(10, rel=0.06)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_correlated_noise_is_renoised(spatial_dims):
    clean = phantom(SHAPES[spatial_dims])[0]
    found = choose([image(clean + correlated(clean.shape))], TrainingOptions(spatial_dims=spatial_dims))
    assert found.scheme == "renoised"
    assert found.judge is not None
    assert found.judge.noise.lags[0, 0] == pytest.approx(0.6 / 1.36, abs=0.1)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_without_noise_the_prior_is_left_alone(spatial_dims):
    clean = ndimage.gaussian_filter(phantom(SHAPES[spatial_dims])[0], 1.5)
    assert choose([image(clean)], TrainingOptions(spatial_dims=spatial_dims)).scheme == "prior"


@pytest.mark.parametrize(
    ("options", "scheme"),
    [
        ({"fast": True}, "prior"),
        ({"scheme": "prior"}, "prior"),
        ({"scheme": "n2v"}, "n2v"),
        ({"scheme": "renoised"}, "renoised"),
        ({"prior": False}, "n2v"),
        ({"footprint": np.ones((3, 1))}, "n2v"),
        ({"settings": {"fill": "median"}}, "n2v"),
        ({"settings": {"features": [4] * 6}}, "n2v"),
    ],
)
def test_what_is_asked_for_is_done(options, scheme):
    assert choose([image(phantom(SHAPES[2])[1])], TrainingOptions(**options)).scheme == scheme


def test_slices_that_share_nothing_are_denoised_one_by_one():
    """As thick slices: each shows something else."""
    rng = np.random.default_rng(0)
    slices = [np.roll(np.rot90(phantom((64, 64))[0], k), 17 * k, axis=1) for k in range(12)]
    stack = np.stack(slices, -1) + rng.normal(0, 10, (64, 64, 12))
    assert choose([image(stack)], TrainingOptions()).spatial_dims == 2


def test_a_spoiled_network_is_not_kept(tmp_path):
    import torch

    noisy = image(phantom(SHAPES[2])[1])
    judge = choose([noisy], TrainingOptions()).judge
    assert judge is not None
    prior = prior_network(2)
    state = {name: value.float() for name, value in torch.load(prior.weights, weights_only=True).items()}
    state["final_conv.weight"] *= 0.5
    torch.save(state, tmp_path / "spoiled.pt")
    assert not judge.prefers(dataclasses.replace(prior, weights=tmp_path / "spoiled.pt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "best"}, "scheme must be one of auto, n2v"),
        ({"fast": True, "epochs": 3}, "fast must come without epochs"),
        ({"fast": True, "scheme": "n2v"}, "fast must stand alone"),
        ({"scheme": "renoised", "prior": False}, "must start from the prior"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)
