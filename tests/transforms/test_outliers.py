# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from conftest import phantom
from monai.data import MetaTensor
from monai.transforms import Compose

import monai_n2v
from monai_n2v.transforms.axes import ShortestAxisLastd
from monai_n2v.transforms.intensity import StandardizeIntensity, StandardizeIntensityd
from monai_n2v.transforms.outliers import find_outliers
from monai_n2v.transforms.padding import RestorePaddingd

SHAPES = [(60, 52), (28, 24, 20)]


def spoiled(shape, n: int, values) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """A noisy phantom, the same with ``n`` outliers, and where these are: no two beside each other."""
    noisy = phantom(shape)[1]
    grid = np.argwhere(np.ones([len(range(1, side, 3)) for side in shape])) * 3 + 1
    sites = tuple(grid[np.random.default_rng(0).permutation(len(grid))[:n]].T)
    bad = noisy.copy()
    bad[sites] = np.resize(values, n)
    return noisy, bad, sites


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [[4000, -900], [1e6], [1e10], [60000]])
def test_outliers_found_and_without_weight(shape, values):
    noisy, bad, sites = spoiled(shape, 3, values)
    found = find_outliers(bad)
    assert sorted(zip(*found.sites)) == sorted(zip(*sites))
    before, after = (StandardizeIntensity()(image[None]) for image in (noisy, bad))
    assert after.meta["intensity_mean"] == pytest.approx(before.meta["intensity_mean"], abs=0.1)
    assert after.meta["intensity_std"] == pytest.approx(before.meta["intensity_std"], rel=0.01)
    assert float(after.max()) < float(before.max()) + 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_two_beside_each_other_are_found_also_at_the_border(shape):
    noisy = phantom(shape)[1]
    rest = tuple(5 for _ in shape[1:])
    noisy[(0, *rest)] = noisy[(1, *rest)] = 5000
    noisy[(20, *(0 for _ in rest))] = -5000
    found = find_outliers(noisy)
    assert {axis[0] for axis in zip(*found.sites)} == {0, 1, 20}
    assert (found.medians > -20).all()
    assert (found.medians < 150).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_places_do_not_depend_on_the_order_of_axes(shape):
    bad = spoiled(shape, 3, [4000])[1]
    found, turned = find_outliers(bad), find_outliers(bad.T)
    assert sorted(zip(*found.sites)) == sorted(zip(*turned.sites[::-1]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["line", "block", "noise", "constant", "photons", "many"])
def test_structures_and_noise_are_no_outliers(kind, shape):
    image = phantom(shape)[1]
    if kind == "line":
        image[(slice(4, 20), *(9 for _ in shape[1:]))] = 3000
    elif kind == "block":
        image[tuple(slice(4, 7) for _ in shape)] = 3000
    elif kind == "constant":
        image[:] = 5
    elif kind == "photons":
        image = np.random.default_rng(0).poisson(0.3, shape).astype(np.float32)
    elif kind == "many":
        image = np.where(np.random.default_rng(0).uniform(size=shape) < 0.05, 4000, image)
    assert find_outliers(image) is None


@pytest.mark.parametrize("turned", [False, True], ids=["found anew", "as noted, turned back"])
@pytest.mark.parametrize("shape", [(60, 52), (28, 24, 20), (32, 14, 26)])
def test_outliers_stay_and_others_keep_their_mean(shape, turned):
    _, bad, sites = spoiled(shape, 3, [4000])
    bad[:6] = -1000  # padding as well
    image, changed = MetaTensor(bad[None]), torch.from_numpy(phantom(shape, seed=1)[1][None] + 7)
    standardize = Compose([ShortestAxisLastd("image", 2), StandardizeIntensityd("image")]) if turned else (lambda d: d)
    denoised = RestorePaddingd()({**standardize({"image": image, "noisy": image}), "pred": changed})["pred"][0].numpy()
    others = np.ones(shape, dtype=bool)
    others[sites] = others[:6] = False
    assert np.array_equal(denoised[~others], bad[~others])
    assert denoised[others].mean(dtype=float) == pytest.approx(bad[others].mean(dtype=float), abs=1e-3)


def test_channels_are_looked_at_apart():
    image = np.stack([phantom((60, 52))[1], spoiled((60, 52), 2, [1e6])[1]])
    standard = StandardizeIntensity()(torch.from_numpy(image))
    assert standard.meta["intensity_std"][0] == pytest.approx(image[0].std(), rel=1e-6)
    assert standard.meta["intensity_std"][1] < 100


@pytest.mark.parametrize(
    ("shape", "sigma", "share", "values"),
    [((40, 40, 28), 4, 1e-3, [4000, -202]), ((160, 160), 10, 7e-4, [60000]), ((40, 40, 28), 4, 1e-5, [1e10])],
)
def test_a_few_outliers_change_nothing_else(shape, sigma, share, values, caplog):
    """A fitted map with failed fits, hot pixels of a camera, one broken voxel."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*map(np.arange, shape), indexing="ij")
    clean = 30 + 8 * np.sin(axes[0] / 6) + 4 * np.cos(axes[1] / 5) + (70 if len(shape) == 2 else 0)
    noisy = (clean + rng.normal(0, sigma, shape)).astype(np.float32)
    sites = np.unravel_index(rng.choice(noisy.size, max(1, int(share * noisy.size)), replace=False), shape)
    bad = noisy.copy()
    bad[sites] = rng.choice(values, len(sites[0]))
    others = np.ones(shape, dtype=bool)
    others[sites] = False
    without = monai_n2v.denoise(noisy, scheme="prior", device="cpu", spatial_dims=len(shape))
    with caplog.at_level(logging.WARNING, "monai_n2v"):
        result = monai_n2v.denoise(bad, scheme="prior", device="cpu", spatial_dims=len(shape))
    errors = [(image - clean)[others] for image in (without, result)]
    rms = [np.sqrt(np.mean(error**2)) for error in errors]
    assert abs(errors[1].mean()) < 0.1 * sigma
    assert rms[1] < 1.2 * rms[0]
    assert np.array_equal(result[sites], bad[sites])
    assert "far outside of all others" in caplog.text
