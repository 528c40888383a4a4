# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from conftest import phantom
from scipy import ndimage

from monai_n2v.noise.between_volumes import are_independent, measure_series
from monai_n2v.noise.check import check_noise

SHAPES = {2: (96, 88), 3: (40, 36, 24)}


def series(spatial_dims: int, n_volumes: int = 12, gains: bool = True) -> np.ndarray:
    """Volumes of one object, with contrasts of their own and independent noise."""
    clean, rng = phantom(SHAPES[spatial_dims])[0], np.random.default_rng(1)
    scales = np.where(np.arange(n_volumes) % 4 == 0, 3.0, 1.0) if gains else np.ones(n_volumes)
    return np.stack([scale * clean + rng.normal(0, 10, clean.shape) for scale in scales]).astype(np.float32)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("n_volumes", [3, 12])
def test_independent_noise_is_seen_beside_shared_structure(spatial_dims, n_volumes):
    found = measure_series(series(spatial_dims, n_volumes, gains=n_volumes > 3))
    assert abs(found) < 0.05
    assert are_independent(found)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize(("weight", "correlation"), [(0.5, 0.5), (0.8, 0.235)])
def test_resampling_in_time_is_measured(spatial_dims, weight, correlation):
    volumes = series(spatial_dims)
    found = measure_series(weight * volumes[1:] + (1 - weight) * volumes[:-1])
    assert found == pytest.approx(correlation, abs=0.05)
    assert not are_independent(found)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_motion_correction_leaves_volumes_independent(spatial_dims):
    volumes = series(spatial_dims, gains=False)
    rng = np.random.default_rng(0)
    moved = np.stack([ndimage.shift(one, rng.uniform(0.2, 0.5, one.ndim), order=1) for one in volumes])
    assert are_independent(measure_series(moved))


@pytest.mark.parametrize("shape", [(1, 96, 88), (4, 14, 14), (4, 96, 5)])
def test_too_little_to_measure_is_none(shape):
    assert measure_series(np.random.default_rng(0).normal(size=shape).astype(np.float32)) is None


def test_constant_volumes_are_none():
    assert measure_series(np.ones((6, 40, 40, 20), np.float32)) is None


@pytest.mark.parametrize(
    ("volumes", "sentence"),
    [
        (series(3), "they can be denoised together (--volumes)."),
        ((series(3)[1:] + series(3)[:-1]) / 2, "noise is shared between volumes (correlation 0.5"),
    ],
    ids=["independent", "resampled"],
)
def test_check_says_whether_volumes_can_be_denoised_together(volumes, sentence):
    found = check_noise(volumes)
    assert sentence in " ".join(found.sentences)
    assert found.to_dict()["between_volumes"] == pytest.approx(found.between_volumes)
    assert check_noise(volumes[:1]).between_volumes is None
