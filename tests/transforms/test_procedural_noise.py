# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_n2v.noise.magnitude import magnitude_mean
from monai_n2v.transforms import RandProceduralNoised
from monai_n2v.transforms.procedural_noise import clipped_mean

SHAPES = {2: (6, 1, 48, 40), 3: (4, 1, 16, 20, 12)}


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_pairs_are_finite_of_one_shape_and_repeat(spatial_dims):
    clean = torch.rand(SHAPES[spatial_dims])
    before = clean.clone()
    first = [RandProceduralNoised().set_random_state(seed=5)({"image": clean}) for _ in range(2)]
    for key in ("image", "label", "mask"):
        assert first[0][key].shape == clean.shape
        assert torch.isfinite(first[0][key]).all()
        assert torch.equal(first[0][key], first[1][key])
    assert torch.equal(clean, before)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_target_is_the_mean_of_the_noisy_values(spatial_dims):
    """Whatever the kind of the noise: over many draws what the target misses averages out."""
    transform = RandProceduralNoised(strength=(0.05, 0.5)).set_random_state(seed=0)
    clean = 0.5 + torch.rand(SHAPES[spatial_dims])
    off, spread = [], []
    for _ in range(60):
        pair = transform({"image": clean})
        noise = (pair["image"] - pair["label"]).flatten(1)
        off.append(noise.mean(1) / noise.std(1))
        spread.append(noise.std(1))
    assert abs(torch.cat(off).mean()) < 0.01
    assert torch.cat(spread).max() > 4 * torch.cat(spread).min(), "strengths differ"


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_weight_falls_with_the_noise(spatial_dims):
    transform = RandProceduralNoised().set_random_state(seed=1)
    rows = [transform({"image": torch.rand(SHAPES[spatial_dims])}) for _ in range(10)]
    power = torch.cat([(row["image"] - row["label"]).square().flatten(1).mean(1) for row in rows])
    weight = torch.cat([row["mask"].flatten(1)[:, 0] for row in rows])
    assert torch.allclose(weight, (power + 0.003) ** -0.75, rtol=1e-3)


@pytest.mark.parametrize("signal", [0.0, 1.0, 4.0])
def test_means_are_those_of_simulated_noise(signal):
    rng = np.random.default_rng(0)
    real, imaginary = rng.normal(0, 2, (2, 400_000))
    given = np.float32([signal])
    assert magnitude_mean(given, 2.0)[0] == pytest.approx(np.hypot(signal + real, imaginary).mean(), rel=0.005)
    coils = rng.normal(0, 2, (8, 200_000))
    coils[0] += signal
    assert magnitude_mean(given, 2.0, 4)[0] == pytest.approx(np.sqrt((coils**2).sum(0)).mean(), rel=0.005)
    assert clipped_mean(given, 2.0)[0] == pytest.approx(np.maximum(signal + real, 0).mean(), rel=0.01)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="strength must be two rising positive numbers, got"):
        RandProceduralNoised(strength=(1.0, 0.1))
    with pytest.raises(ValueError, match="keys must name one image, got 2"):
        RandProceduralNoised(keys=("a", "b"))
