# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import laws
import numpy as np
import pytest
import torch

from monai_n2v.noise.model import NoiseModel
from monai_n2v.transforms import (
    RandRecorruptD,
    RandRecorruptd,
    RandRecorruptDict,
    RandRenoiseImageD,
    RandRenoiseImaged,
    RandRenoiseImageDict,
    draw_noise,
)

SHAPES = {2: (8, 1, 96, 80), 3: (4, 1, 32, 40, 24)}


def model(spatial_dims: int, lag: float = 0.0, sigmas: tuple[float, ...] = (0.5,)) -> NoiseModel:
    lags = np.zeros((spatial_dims, 3))
    lags[-1, 0] = lag
    return NoiseModel(np.linspace(0, 1, len(sigmas)), np.array(sigmas), lags)


def correlation(values: torch.Tensor, axis: int) -> float:
    n = values.shape[axis]
    here, there = values.narrow(axis, 0, n - 1), values.narrow(axis, 1, n - 1)
    return float((here * there).mean() / values.square().mean())


@pytest.mark.parametrize("lag", [0.0, 0.3, -0.2])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_drawn_noise_has_the_models_strength_and_correlation(spatial_dims, lag):
    noise = draw_noise(model(spatial_dims, lag), torch.zeros(SHAPES[spatial_dims]), np.random.RandomState(0))
    assert noise.std() == pytest.approx(0.5, rel=0.02)
    assert correlation(noise, -1) == pytest.approx(lag, abs=0.02)
    assert correlation(noise, -2) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_strength_follows_the_intensity(spatial_dims):
    clean = torch.zeros(SHAPES[spatial_dims])
    clean[1], clean[2], clean[3] = 0.5, 1.0, 2.0
    noise = draw_noise(model(spatial_dims, sigmas=(0.1, 0.5)), clean, np.random.RandomState(0))
    measured = [float(one.std()) for one in noise[:4]]
    assert measured == pytest.approx([0.1, 0.3, 0.5, 0.5], rel=0.03)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("lag", [0.0, 0.3])
@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_recorrupted_noises_are_independent_and_of_known_power(spatial_dims, alpha, lag, batched):
    kind = model(spatial_dims, lag)
    shape = SHAPES[spatial_dims]
    clean = torch.rand(shape)
    noisy = clean + draw_noise(kind, clean, np.random.RandomState(1))
    pair = RandRecorruptd("image", kind, alpha, batched=batched).set_random_state(seed=0)
    parts = [{"image": noisy}] if batched else [{"image": one} for one in noisy]
    out = [pair(part) for part in parts]
    image = out[0]["image"] if batched else torch.stack([one["image"] for one in out])
    label = out[0]["label"] if batched else torch.stack([one["label"] for one in out])
    laws.noises_are_independent(image - clean, label - clean)
    assert (image - clean).std() == pytest.approx(0.5 * np.sqrt(1 + alpha**2), rel=0.03)
    assert (label - clean).std() == pytest.approx(0.5 * np.sqrt(1 + alpha**-2), rel=0.03)


@pytest.mark.parametrize("kind", [0.5, "model"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_renoised_image_is_the_label_with_noise(spatial_dims, kind):
    clean = torch.rand(SHAPES[spatial_dims])
    noise = model(spatial_dims) if kind == "model" else kind
    d = {"image": clean + 9, "label": clean}
    out = RandRenoiseImaged("image", noise, batched=True).set_random_state(seed=0)(d)
    assert torch.equal(out["label"], clean)
    assert (out["image"] - clean).std() == pytest.approx(0.5, rel=0.03)
    assert abs(float((out["image"] - clean).mean())) < 0.01
    again = RandRenoiseImaged("image", noise, batched=True).set_random_state(seed=0)(d)
    assert torch.equal(out["image"], again["image"])


def test_names_and_refusals():
    assert RandRecorruptD is RandRecorruptDict is RandRecorruptd
    assert RandRenoiseImageD is RandRenoiseImageDict is RandRenoiseImaged
    with pytest.raises(ValueError, match="alpha must be above 0, got 0"):
        RandRecorruptd("image", 1.0, alpha=0)
    with pytest.raises(ValueError, match="noise must be above 0, got 0"):
        RandRenoiseImaged("image", 0.0)
    with pytest.raises(ValueError, match="label_key must have one name per key, got 1 for 2"):
        RandRecorruptd(("a", "b"), 1.0)
