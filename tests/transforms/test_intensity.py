# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch

from monai_n2v.transforms.intensity import (
    RestoreIntensity,
    RestoreIntensityd,
    StandardizeIntensity,
    StandardizeIntensityd,
)

SHAPES = {2: (1, 48, 40), 3: (1, 16, 20, 12)}


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_intensity_round_trip_is_identity(spatial_dims, scale):
    image = torch.from_numpy(np.random.default_rng(0).normal(-500, 300, (2, *SHAPES[spatial_dims][1:])) * scale).float()
    standard = StandardizeIntensity()(image)
    assert standard.dtype == torch.float32
    assert standard.mean(dim=tuple(range(1, 1 + spatial_dims))).abs().max() < 1e-5
    assert (standard.flatten(1).std(dim=1, correction=0) - 1).abs().max() < 1e-5
    restored = RestoreIntensity()(standard, standard.meta)
    np.testing.assert_allclose(restored, image, rtol=0, atol=2e-7 * float(image.abs().max()))


def test_restored_prediction_keeps_the_mean_of_each_channel():
    image = torch.from_numpy(np.random.default_rng(0).normal(5, 2, (2, 30, 30))).float()
    standard = StandardizeIntensity()(image)
    shifted = standard * 0.8 + 0.3
    kept = RestoreIntensity()(shifted, standard.meta)
    np.testing.assert_allclose(kept.mean(dim=(1, 2)), image.mean(dim=(1, 2)), rtol=1e-6)
    free = RestoreIntensity(keep_mean=False)(shifted, standard.meta)
    assert (free - kept).flatten(1).std(dim=1).max() < 1e-5
    assert (free.mean(dim=(1, 2)) > image.mean(dim=(1, 2)) + 0.3).all()


@settings(deadline=None, max_examples=50)
@given(value=st.floats(-1e9, 1e9, width=32))
def test_intensity_round_trip_of_a_constant_is_exact(value):
    image = torch.full((1, 9, 9), value)
    standard = StandardizeIntensity()(image)
    assert torch.isfinite(standard).all()
    np.testing.assert_allclose(RestoreIntensity()(standard, standard.meta), image, rtol=1e-7)


def test_intensity_accepts_integers_and_leaves_input():
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    standard = StandardizeIntensity()(image)
    assert standard.dtype == torch.float32
    assert image.dtype == np.uint8
    np.testing.assert_allclose(RestoreIntensity()(standard, standard.meta), image, atol=1e-5)


def test_intensity_statistics_survive_a_dataloader():
    data = [{"image": MetaTensor(torch.rand(1, 8, 8) * 10 + k)} for k in range(2)]
    loader = DataLoader(Dataset(data, StandardizeIntensityd("image")), batch_size=1)
    for original, batch in zip(data, loader):
        item = decollate_batch(batch)[0]
        item["pred"] = item["image"].clone()
        np.testing.assert_allclose(RestoreIntensityd("pred")(item)["pred"], original["image"], atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_intensity_non_finite_refused(bad):
    image = MetaTensor(torch.ones(1, 8, 8), meta={"filename_or_obj": "scan.nii"})
    image[0, 0, 0] = bad
    with pytest.raises(ValueError, match=r"got 1 NaN or infinite voxels for scan\.nii"):
        StandardizeIntensity()(image)


def test_intensity_complex_refused_and_statistics_required():
    with pytest.raises(ValueError, match="image must be real"):
        StandardizeIntensity()(torch.ones(1, 8, 8, dtype=torch.complex64))
    with pytest.raises(ValueError, match="meta must hold"):
        RestoreIntensity()(torch.ones(1, 8, 8), {})


def test_reference_statistics_serve_the_label_too():
    image, label = 5 + 3 * torch.rand(2, 8, 8), 100 + torch.rand(2, 8, 8)
    out = StandardizeIntensityd(["label", "image"], reference_key="image")({"image": image, "label": label})
    means, stds = (torch.as_tensor(out["image"].meta[f"intensity_{name}"]).view(2, 1, 1) for name in ("mean", "std"))
    np.testing.assert_allclose(out["label"].double().numpy(), (label - means) / stds, rtol=1e-5)
    np.testing.assert_allclose(out["image"].mean((1, 2)).numpy(), 0, atol=1e-5)
    assert np.array_equal(out["label"].meta["intensity_mean"], out["image"].meta["intensity_mean"])
    with pytest.raises(ValueError, match="2 channels of its reference, got 1"):
        StandardizeIntensityd(["image", "label"], reference_key="image")({"image": image, "label": label[:1]})
    with pytest.raises(ValueError, match="reference_key must be one of"):
        StandardizeIntensityd("image", reference_key="label")


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 6, 6, 6)])
def test_constant_channel_is_restored_whatever_a_network_made_of_it(shape):
    standard = StandardizeIntensity()(torch.full(shape, 7.25))
    assert (standard == 0).all()
    assert (RestoreIntensity()(torch.randn(shape), standard.meta) == 7.25).all()
