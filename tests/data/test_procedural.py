# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_n2v.data import PatchCut, PatchLoader, ProceduralImages
from monai_n2v.data.procedural_textures import mosaic
from monai_n2v.transforms import RandProceduralNoised

SHAPES = {2: (64, 48), 3: (32, 40, 24)}


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_images_are_as_promised_and_repeat(spatial_dims):
    images = ProceduralImages(SHAPES[spatial_dims], seed=3)
    for number in range(12):
        image = images[number]["image"]
        assert image.shape == (1, *SHAPES[spatial_dims])
        assert image.dtype == torch.float32
        assert image.min() >= 0
        assert image.std(correction=0) == pytest.approx(1, abs=1e-3)
        assert torch.equal(image, ProceduralImages(SHAPES[spatial_dims], seed=3)[number]["image"])
    assert not torch.equal(images[0]["image"], images[1]["image"])
    assert not torch.equal(images[0]["image"], ProceduralImages(SHAPES[spatial_dims], seed=4)[0]["image"])


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_mosaics_have_two_values_and_are_mostly_regular(spatial_dims):
    """Stripes, grids and checkers show as lines of the spectrum, which hold most of a scene's power between them."""
    rng = np.random.default_rng(0)
    shape = (48,) * spatial_dims
    mosaics = [mosaic(rng, shape) for _ in range(40)]
    assert all(set(np.unique(one)) <= {-0.5, 0.5} for one in mosaics)
    assert np.mean([len(np.unique(one)) == 2 for one in mosaics]) > 0.9
    power = [np.sort(np.abs(np.fft.fftn(one - one.mean())).ravel() ** 2) for one in mosaics]
    shares = [one[-len(one) // 50 :].sum() / max(one.sum(), 1e-9) for one in power]
    assert np.mean(np.array(shares) > 0.5) > 0.85, "of noise it is a tenth"


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_scenes_have_edges_of_all_scales(spatial_dims):
    """As in natural images: large steps are far more frequent than a normal distribution of the same width has them."""
    images = ProceduralImages((64,) * spatial_dims)
    steps = np.concatenate([np.diff(images[n]["image"].numpy()[0], axis=0).ravel() for n in range(10)])
    kurtosis = np.mean((steps - steps.mean()) ** 4) / steps.var() ** 2
    assert kurtosis > 8
    assert np.mean(np.abs(steps) < 0.1 * steps.std()) > 0.3, "most of an object is calm"


def test_collection_ends_and_refuses_what_it_cannot_make():
    images = ProceduralImages((16, 16), n_images=2)
    assert len(list(images)) == len(images) == 2
    with pytest.raises(ValueError, match="shape must have 2 or 3 sides, got"):
        ProceduralImages((16, 16, 16, 16))
    with pytest.raises(ValueError, match="shape must be a whole number from 16, got 8"):
        ProceduralImages((8, 64))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_epochs_repeat_whatever_came_before(spatial_dims):
    def loader() -> PatchLoader:
        return PatchLoader(
            ProceduralImages((32,) * spatial_dims), PatchCut((16,) * spatial_dims), 3, 2,
            transform=RandProceduralNoised(), memory_gib=6 * 32**spatial_dims * 4 / 2**30,
        )  # fmt: skip

    one, other = loader(), loader()
    for epoch in (1, 2, 3):
        one.set_epoch(epoch)
        batches = list(one)
    other.set_epoch(3)
    for a, b in zip(batches, other):
        assert all(torch.equal(a[key], b[key]) for key in ("image", "label", "mask"))
