# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from samples import head, magnitude, white

from monai_n2v.noise import find_magnitude_noise
from monai_n2v.transforms import (
    DivideByNoiseMapd,
    MultiplyByNoiseMapd,
    RemoveMagnitudeBiasd,
    RestoreAxesd,
    RestoreIntensityd,
    RestorePaddingd,
    ShortestAxisLastd,
    StandardizeIntensityd,
)


def uneven(shape: tuple[int, ...]) -> np.ndarray:
    """Noise three times as strong in the middle as at the border."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return (1 + 2 * np.exp(-3 * sum(a**2 for a in axes))).astype(np.float32)


def item(*volumes: np.ndarray) -> dict[str, MetaTensor]:
    return {name: MetaTensor(torch.from_numpy(np.stack(volumes))) for name in ("image", "noisy")}


def divided(noise_map: np.ndarray | None) -> DivideByNoiseMapd:
    return DivideByNoiseMapd("image", noise_map, gain_key="noise_gain")


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_noise_becomes_even(spatial_dims):
    clean = head(spatial_dims)
    strength = uneven(clean.shape)
    output = divided(strength)(item(clean + 9 * strength * white(clean.shape)))
    gain = output["noise_gain"].numpy()
    noise = output["image"][0].numpy() - clean / gain
    parts = [noise[strength > 2].std(), noise[strength < 1.2].std()]
    assert parts[0] == pytest.approx(parts[1], rel=0.1)
    np.testing.assert_array_equal(output["noisy"][0], item(clean + 9 * strength * white(clean.shape))["noisy"][0])


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("padding", [None, 0.0, -1024.0])
def test_image_comes_back_where_the_network_changes_nothing(spatial_dims, padding):
    noisy = head(spatial_dims) + 9 * white(head(spatial_dims).shape)
    if padding is not None:
        noisy[:5] = padding
    data = item(noisy, noisy + 3)
    data["image"].meta["filename_or_obj"] = data["noisy"].meta["filename_or_obj"] = ""
    before = Compose([divided(uneven(noisy.shape)), ShortestAxisLastd("image", 2), StandardizeIntensityd("image")])
    after = [RestoreIntensityd("pred"), RestoreAxesd("pred"), MultiplyByNoiseMapd("pred"), RestorePaddingd("pred")]
    prepared = before(data)
    output = Compose(after)({**prepared, "pred": prepared["image"].as_tensor()})["pred"].numpy()
    np.testing.assert_allclose(output, data["noisy"].numpy(), rtol=1e-5, atol=1e-3)
    if padding is not None:
        np.testing.assert_array_equal(output[0, :5], noisy[:5])


def test_padding_of_any_value_stays_constant_for_the_network():
    noisy = head(3) + 9 * white(head(3).shape)
    noisy[:5] = -1024
    even = divided(uneven(noisy.shape))(item(noisy))["image"][0].numpy()
    assert (even[:5] == -1024).all()


def test_without_a_map_nothing_is_touched():
    data = item(head(2))
    output = divided(None)(data)
    assert output.keys() == data.keys()
    assert output["image"] is data["image"]
    assert MultiplyByNoiseMapd("image")(data)["image"] is data["image"]


def test_pairs_are_divided_alike():
    clean = head(2)
    data = {"image": item(clean + 9 * white(clean.shape))["image"], "label": item(clean)["image"]}
    output = DivideByNoiseMapd(["image", "label"], uneven(clean.shape))(data)
    assert set(output) == {"image", "label"}
    ratio = data["image"].numpy() / output["image"].numpy()
    np.testing.assert_allclose(output["label"].numpy() * ratio, clean[None], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("magnitudes", ["auto", "rician"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_bias_of_uneven_magnitude_noise_is_taken_off_everywhere(spatial_dims, magnitudes):
    clean = head(spatial_dims)
    strength = uneven(clean.shape)
    noisy = strength * magnitude(clean / strength, 9)
    assert find_magnitude_noise(noisy[None]) is None
    data = divided(strength)(item(noisy))
    pred = np.mean([strength * magnitude(clean / strength, 9, seed=seed) for seed in range(1, 17)], axis=0)
    data["pred"] = torch.from_numpy(pred.astype(np.float32)[None])
    output = RemoveMagnitudeBiasd(magnitude=magnitudes)(data)
    error, before = (one - clean for one in (output["pred"][0].numpy(), pred))
    for part in (strength > 2, strength < 1.2):
        assert abs(error[part].mean()) < 0.15 * abs(before[part].mean()) + 0.1
    np.testing.assert_array_equal(output["noisy_mean"], data["pred"])


def test_image_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"noise_map must have the shape of the image, \(144, 160\), got \(160, 144\)"):
        divided(np.ones((160, 144)))(item(head(2)))


def test_plain_tensors_are_divided_too():
    image = torch.rand(1, 8, 8)
    strength = np.repeat([[1.0], [2.0], [3.0], [4.0]], 2, axis=0) * np.ones((8, 8))
    found = DivideByNoiseMapd("image", strength)({"image": image})
    assert torch.allclose(found["image"], image * 2.5 / torch.from_numpy(strength).float())
