# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import phantom
from monai.data import MetaTensor
from scipy import ndimage

import monai_n2v
from monai_n2v.transforms.intensity import StandardizeIntensity, StandardizeIntensityd
from monai_n2v.transforms.noise_parts import measure_part, parts_of
from monai_n2v.transforms.padding import fill_padding, find_padding, padding_in, restore_padding


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
    restore_padding(noisy, denoised, padding)
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


def padded(shape: tuple[int, ...], value: float = -1000) -> tuple[np.ndarray, np.ndarray]:
    """A noisy phantom with a padded end and padded corners, and where that is."""
    noisy = phantom(shape)[1]
    mask = np.zeros(shape, dtype=bool)
    mask[: shape[0] // 3] = mask[(slice(-8, None),) * len(shape)] = True
    noisy[mask] = value
    return noisy, mask


@pytest.mark.parametrize("shape", [(49, 40), (28, 25, 20)])
def test_padding_takes_the_intensities_beside_it(shape):
    noisy, mask = padded(shape)
    before = noisy.copy()
    filled = fill_padding(noisy, mask)
    assert np.array_equal(noisy, before)
    assert np.array_equal(filled[~mask], noisy[~mask])
    lines = [np.diff(image[:8], axis=0).std() / np.sqrt(2) for image in (filled, np.flip(phantom(shape)[1], 0))]
    assert lines[0] == pytest.approx(lines[1], rel=0.15), "as noisy as what was measured"
    halves = np.where(np.arange(shape[-1]) < 16, np.float32(100), np.float32(900)) * np.ones(shape, np.float32)
    mask[-8:] = False
    beside = fill_padding(halves, mask)[shape[0] // 3 - 1]
    assert beside[..., :12] == pytest.approx(100), "what is near, not the mean of all"
    assert beside[..., 20:] == pytest.approx(900)


@pytest.mark.parametrize("shape", [(48, 40), (28, 24, 20)])
def test_standardized_images_hold_no_padding_and_tell_where_it_was(shape):
    noisy, mask = padded(shape)
    standard = StandardizeIntensity()(MetaTensor(np.stack([noisy, phantom(shape)[1]])))
    assert standard.abs().max() < 8
    assert float(standard[0][torch.from_numpy(~mask)].std(correction=0)) == pytest.approx(1, abs=1e-4)
    found = [padding_in(standard.meta, number, shape) for number in range(2)]
    assert np.array_equal(found[0], mask)
    assert not found[1].any()


@pytest.mark.parametrize("shape", [(48, 40), (28, 24, 20)])
def test_images_without_padding_are_standardized_as_ever(shape):
    noisy = phantom(shape)[1]
    standard = StandardizeIntensity()(MetaTensor(noisy[None]))
    values = torch.from_numpy(noisy[None]).double()
    spread = float(np.sqrt(np.mean((noisy.astype(np.float64) - noisy.mean(dtype=np.float64)) ** 2)))
    expected = ((values - noisy.mean(dtype=np.float64)) / spread).float()
    assert torch.allclose(standard.as_tensor(), expected, atol=1e-6, rtol=0)
    assert "padding" not in standard.meta


def test_padding_stays_for_the_network_where_it_is_not_to_be_restored():
    noisy, mask = padded((48, 40))
    standard = StandardizeIntensityd("image", fill_padding=False)({"image": MetaTensor(noisy[None])})["image"]
    assert len(torch.unique(standard.as_tensor()[0][torch.from_numpy(mask)])) == 1
    result = monai_n2v.denoise(noisy, scheme="prior", keep_padding=False, device="cpu")
    assert result[:10].mean() < -900


def test_targets_are_filled_where_their_image_is():
    noisy, mask = padded((48, 40))
    clean = phantom((48, 40))[0]
    clean[mask] = -1000
    standardize = StandardizeIntensityd(["image", "label"], reference_key="image")
    out = standardize({"image": MetaTensor(noisy[None]), "label": MetaTensor(clean[None])})
    assert out["label"].abs().max() < 8


@pytest.mark.parametrize(("shape", "spatial_dims"), [((40, 40, 24), 3), ((40, 40, 24), 2), ((64, 48), 2)])
def test_tissue_beside_padding_is_denoised_as_at_the_border(shape, spatial_dims):
    clean = np.full(shape, 100, dtype=np.float32)
    clean[8:26, 8:26] += 60
    noisy = clean + np.random.default_rng(0).normal(0, 10, shape).astype(np.float32)
    with_padding = noisy.copy()
    with_padding[:14] = -1000
    options = {"scheme": "prior", "device": "cpu", "spatial_dims": spatial_dims}
    cropped, beside = (monai_n2v.denoise(image, **options) for image in (noisy[14:], with_padding))
    errors = [cropped[:6] - clean[14:20], beside[14:20] - clean[14:20]]
    rms = [float(np.sqrt(np.mean(error**2))) for error in errors]
    assert rms[1] < 1.6 * rms[0], "padding is no worse than the image's border"


@pytest.mark.parametrize("shape", [(96, 80), (40, 32, 28)])
def test_noise_is_measured_beside_padding_only(shape):
    noisy, mask = padded(shape)
    whole = noisy.copy()
    whole[mask] = phantom(shape)[1][mask]
    noises = []
    for image in (whole, noisy):
        standard = StandardizeIntensity()(MetaTensor(image[None]))
        (part,) = parts_of(standard)
        smooth = ndimage.uniform_filter(part.noisy.numpy(), (1, *[3] * len(shape)))
        noise = measure_part(part, torch.from_numpy(smooth))
        noises.append(noise.sigma * float(standard.meta["intensity_std"][0]))
        assert part.padding.mean() == pytest.approx(mask.mean() if image is noisy else 0, abs=0.15)
    assert noises[1] == pytest.approx(noises[0], rel=0.1)
